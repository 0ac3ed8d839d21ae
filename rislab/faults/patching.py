"""A patched package: rislab with the edits of faults in it, made by an import hook.

    with patched(fault) as package:
        records = list(package.fit(model, scenes, config))

The hook compiles the edited modules and whatever imports them, under a name of its own; all others are those of rislab.
"""

from __future__ import annotations

import builtins
import dis
import linecache
import re
import sys
import threading
import types
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

from rislab.faults.fault import PACKAGE, Fault, path_of, source_of

# Always compiled anew, since lessons replace its loss.
LOOP = "training.loop"


@contextmanager
def patched(*faults: Fault) -> Iterator[types.ModuleType]:
    """rislab with faults in it, as a package: `with patched(fault) as package: package.fit(...)`.

    Take configurations and data from the same package: its classes may differ from those of rislab. Without any fault
    it is the correct package, compiled like a patched one.

    Args:
        faults: whose edits are made one after the other.

    Yields:
        The package, with the modules of rislab as attributes; it is gone on leaving.

    Raises:
        InputError: if an edit does not match exactly once, for example if two edits change the same line.
    """
    edited = {LOOP: source_of(LOOP)}
    for fault in faults:
        edited[fault.module] = fault.edited(edited.get(fault.module))
    words = re.sub(r"\W+", "_", " and ".join(fault.name for fault in faults) or "correct")
    # Two threads may each have a package of one fault at a time.
    hook = _ImportHook(f"rislab_{words}_{uuid.uuid4().hex[:8]}", edited)
    try:
        yield hook.load("")
    finally:
        hook.remove()


class _ImportHook:
    """`__import__` of the modules of a patched package.

    Args:
        name: of the package.
        edited: source texts by module, in dotted names without "rislab.".
    """

    def __init__(self, name: str, edited: Mapping[str, str]) -> None:
        self._name, self._edited = name, edited
        self._loaded: list[tuple[str, str]] = []  # names of modules and of their source
        self._lock = threading.RLock()

    def __call__(
        self,
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> types.ModuleType:
        """What an import statement in the package gets; the arguments are those of `builtins.__import__`."""
        root, _, module = name.partition(".")
        if root not in ("rislab", self._name):
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        imported = self._module(module)
        if not fromlist:
            return self.load("")
        for each in fromlist:
            inner = f"{module}.{each}".strip(".")
            if path_of(inner) is not None:
                setattr(imported, each, self._module(inner))
        return imported

    def _module(self, module: str) -> types.ModuleType:
        """The module of the package if an edit reaches it, else that of rislab; packages are always its own."""
        if _is_package(module) or module in self._edited or not all_imports(module).isdisjoint(self._edited):
            return self.load(module)
        builtins.__import__(f"rislab.{module}")
        parent, _, last = module.rpartition(".")
        setattr(self.load(parent), last, sys.modules[f"rislab.{module}"])
        return sys.modules[f"rislab.{module}"]

    def load(self, module: str) -> types.ModuleType:
        """A module of the package; "" is the package itself.

        Raises:
            ModuleNotFoundError: if there is none of this name.
        """
        name = f"{self._name}.{module}".rstrip(".")
        with self._lock:
            if name in sys.modules:
                return sys.modules[name]
            path = path_of(module)
            if path is None:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            source = self._edited[module] if module in self._edited else source_of(module)
            made = types.ModuleType(name)
            # Tracebacks and inspect show the lines of an edited module, and not those of the file.
            edited = f"<{path.relative_to(PACKAGE.parent).as_posix()}, edited, {self._name.rpartition('_')[2]}>"
            made.__file__ = edited if module in self._edited else str(path)
            made.__dict__["__builtins__"] = {**vars(builtins), "__import__": self}
            if _is_package(module):
                made.__path__ = []
            self._loaded.append((name, made.__file__))
            sys.modules[name] = made
            if module in self._edited:
                linecache.cache[made.__file__] = (len(source), None, source.splitlines(keepends=True), made.__file__)
            try:
                exec(_compiled(source, made.__file__), made.__dict__)
            except BaseException:
                del sys.modules[name]  # as Python does, or the next import would get half of it
                raise
            if module:
                parent, _, last = module.rpartition(".")
                setattr(self.load(parent), last, made)
            return made

    def remove(self) -> None:
        """Forget the modules of the package."""
        for name, file in self._loaded:
            sys.modules.pop(name, None)
            if file.startswith("<"):
                linecache.cache.pop(file, None)


@cache
def _compiled(source: str, file: str) -> types.CodeType:
    return compile(source, file, "exec")


@cache
def _is_package(module: str) -> bool:
    path = path_of(module)
    return path is None or path.name == "__init__.py"


@cache
def all_imports(module: str) -> frozenset[str]:
    """Modules of rislab that a module imports, directly or by others, in dotted names without "rislab."."""
    known: set[str] = set()
    waiting = [module]
    while waiting:
        more = imports_of(waiting.pop()) - known
        known |= more
        waiting += more
    return frozenset(known)


@cache
def imports_of(module: str) -> frozenset[str]:
    """Modules of rislab, without packages, that a module imports anywhere in its source; names as in all_imports()."""
    # Not by ast: before Python 3.12 it fails, here or in the cell of a notebook, where two threads parse at once.
    names = _imported_names(compile(source_of(module), module, "exec"))
    inside = {name.removeprefix("rislab.") for name in names if name.startswith("rislab.")}
    return frozenset(name for name in inside if not _is_package(name))


def _imported_names(code: types.CodeType) -> Iterator[str]:
    """What the import statements of a code object and of its functions ask for, in dotted names."""
    module = ""
    for each in dis.get_instructions(code):
        if each.opname == "IMPORT_NAME":
            module = str(each.argval)
            yield module
        elif each.opname == "IMPORT_FROM":
            yield f"{module}.{each.argval}"
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _imported_names(constant)
