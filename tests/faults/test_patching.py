"""Patched packages: what an edit reaches is compiled anew, all else is that of rislab, and nothing is left behind."""

from __future__ import annotations

import ast
import gc
import inspect
import linecache
import re
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import rislab
from rislab.data import scenes
from rislab.errors import InputError
from rislab.faults import catalogue, patching
from rislab.faults.fault import Fault
from rislab.faults.patching import patched
from rislab.sanity import overfit
from rislab.training import loop

NEVER = catalogue.find_fault("never divided")
NETWORK = next(each for each in catalogue.FAULTS if each.module == "model.network")
DOCSTRING = f'    """{(loop.fit.__doc__ or "").splitlines()[0]}'
RAISES = Fault("raises", "", "training.loop", DOCSTRING, f'    raise RuntimeError("edited")\n{DOCSTRING}', "")
BROKEN = Fault("broken", "", "training.loop", DOCSTRING, f"    def\n{DOCSTRING}", "")


@pytest.fixture(scope="module")
def package() -> Iterator[ModuleType]:
    with patched(NEVER) as package:
        yield package


def left_behind() -> list[str]:
    return [name for name in (*sys.modules, *map(str, linecache.cache)) if "rislab_" in name]


def test_what_an_edit_reaches_is_a_copy_and_all_else_is_that_of_rislab(package: ModuleType) -> None:
    import rislab.rng

    assert package.training.loop.fit is not loop.fit  # edited
    assert package.sanity.overfit.fit is package.training.loop.fit is package.fit  # imports it
    assert package.sanity.FullTraining is not overfit.FullTraining
    assert package.data.scenes.SceneBatch is scenes.SceneBatch is package.SceneBatch
    # What belongs to the process is shared.
    assert package.training.state.TorchRandomState is rislab.rng.TorchRandomState


def test_lazy_public_names_are_those_of_the_package(package: ModuleType) -> None:
    assert package.SceneConfig is rislab.SceneConfig
    assert package.sanity.ladder is package.sanity.overfit_ladder.ladder
    assert package.fit.__module__ == package.training.loop.__name__ != "rislab.training.loop"
    with pytest.raises(AttributeError, match="nothing"):
        _ = package.nothing
    with pytest.raises(ModuleNotFoundError, match=r"training\.nothing"):
        package.training.loop.__builtins__["__import__"]("rislab.training.nothing", fromlist=["name"])


def test_imports_inside_functions_are_mapped(package: ModuleType) -> None:
    name = package.__name__
    lazy = (
        "def fetch():\n    import rislab.training.loop\n    from rislab.training import loop\n    return rislab, loop\n"
    )
    names = {"__builtins__": package.training.loop.__builtins__}
    exec(lazy, names)
    root, own = names["fetch"]()  # type: ignore[operator]
    assert (root, own) == (package, package.training.loop) and own.__name__ == f"{name}.training.loop"


def test_modules_that_import_each_other_are_all_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within functions a circle is allowed; which module is asked for first must not matter."""
    texts = {"a": "def f():\n    import rislab.b\n", "b": "import rislab.a\nimport rislab.edited\n", "edited": ""}
    monkeypatch.setattr(patching, "source_of", texts.__getitem__)
    monkeypatch.setattr(patching, "_is_package", lambda module: module not in texts)
    monkeypatch.setattr(patching, "imports_of", patching.imports_of.__wrapped__)
    for order in (("a", "b"), ("b", "a")):
        patching.all_imports.cache_clear()
        assert all("edited" in patching.all_imports(module) for module in order)
    patching.all_imports.cache_clear()


def test_imports_are_those_of_the_syntax_tree() -> None:
    root = Path(rislab.__file__).parent
    modules = [".".join(path.relative_to(root).with_suffix("").parts) for path in root.glob("[mst]*/[!_]*.py")]
    assert len(modules) > 50
    for module in modules:
        nodes = list(ast.walk(ast.parse(patching.source_of(module))))
        names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        parts = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
        names |= {f"{node.module}{each}" for node in parts for each in ("", *(f".{one.name}" for one in node.names))}
        inside = {name.removeprefix("rislab.") for name in names if name.startswith("rislab.")}
        files = {each for each in inside if (root / f"{each.replace('.', '/')}.py").is_file()}
        assert patching.imports_of(module) == files, module


def test_another_thread_may_parse_while_a_package_is_made() -> None:
    """A notebook parses its next cell meanwhile: before Python 3.12 the collector of garbage may run within ast.parse,
    and where its callbacks let another thread parse, one of the two gets a SystemError."""

    def yields(*_: object) -> None:
        time.sleep(1e-4)

    text = "".join(f"value_{number} = f(g(h(x[{number}]))) + 1\n" for number in range(2000))
    failures: list[SystemError] = []
    done = threading.Event()

    def parse_cells() -> None:
        while not done.is_set():
            try:
                ast.parse(text)
            except SystemError as error:
                failures.append(error)

    cells = threading.Thread(target=parse_cells)
    gc.callbacks.append(yields)
    cells.start()
    try:
        for module in ("training.loop", "sanity.overfit", "music.crb", "checkup.loop_watch") * 10:
            assert patching.imports_of.__wrapped__(module)
    finally:
        done.set()
        cells.join()
        gc.callbacks.remove(yields)
    assert failures == []


def test_tracebacks_and_inspect_show_the_edited_lines() -> None:
    with patched(RAISES) as package:
        assert 'raise RuntimeError("edited")' in inspect.getsource(package.training.loop.fit)
        with pytest.raises(RuntimeError) as caught:
            next(package.fit(None, None, None))
        text = "".join(traceback.format_exception(caught.value))
        assert 'raise RuntimeError("edited")' in text
        # And say which file it is, in a name that a table has room for.
        assert re.search(r'File "<rislab/training/loop\.py, edited, \w{8}>"', text)


def test_nothing_is_left_whether_the_block_ends_or_raises() -> None:
    before = left_behind()
    with pytest.raises(ZeroDivisionError), patched(NEVER) as package:
        assert len(left_behind()) > len(before)
        _ = package.sanity.overfit, 1 / 0
    with patched(BROKEN) as package:
        for _ in range(2):  # and the second import fails as the first one did
            with pytest.raises(SyntaxError):
                _ = package.training.loop
    assert left_behind() == before


def test_two_packages_of_one_fault_stand_side_by_side_in_two_threads() -> None:
    first: list[object] = []

    def train() -> None:
        with patched(NEVER) as package:
            config = package.sanity.OverfitConfig(scenes=64, micro_batch=16)
            first.append(next(package.fit(config.model(), config.data(), config.training())))

    with patched(NEVER) as one:
        threads = [threading.Thread(target=train) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # What the others took down was their own.
        config = one.sanity.OverfitConfig(scenes=64, micro_batch=16)
        record = next(one.fit(config.model(), config.data(), config.training()))
    assert [(each.step, each.loss) for each in first] == [(1, record.loss)] * 2  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("before", "count"), [("no such line", 0), ("return", r"\d\d+")], ids=["matches never", "matches often"]
)
def test_an_edit_that_does_not_match_once_is_refused(before: str, count: int | str) -> None:
    stale = Fault("stale", "", "training.loop", before, "", "")
    with (
        pytest.raises(InputError, match=rf"'stale' matches {count} times in training.loop; allowed: once"),
        patched(stale),
    ):
        pass
    with pytest.raises(InputError, match="matches 0 times"), patched(NEVER, NEVER):
        pass


def test_data_files_are_found() -> None:
    with patched(NETWORK) as package:
        assert package.model.network is not rislab.model.network
        model, _, card = package.model.pretrained.load("shipped", "classroom")
    assert card["design"] and sum(parameter.numel() for parameter in model.parameters()) > 0
