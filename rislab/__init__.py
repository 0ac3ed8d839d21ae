"""rislab: is this training loop telling the truth?

A lab on a real problem, localising radio sources through a reconfigurable intelligent surface:

    >>> import rislab
    >>> scenes = rislab.simulate(rislab.SceneConfig.preset("classroom"), 64, seed=0)
    >>> model = rislab.CovarianceNet.build(scenes.config)
    >>> records = list(rislab.fit(model, scenes, rislab.TrainConfig(epochs=2)))
    >>> [type(record).__name__ for record in records]
    ['StepRecord', 'EpochRecord', 'StepRecord', 'EpochRecord']

The public names stand in `__init__.pyi`; each loads its module when it is first used.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing's own costs a third of the import
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__version__ = "0.2.0.dev0"

# Storeys and their rooms, from the ground up. A room imports only from rooms before it, and the checkup from none.
ROOMS = {
    "library": ("data", "music", "model", "training"),
    "judges": ("checkup", "sanity", "faults", "tuning"),
    "faces": ("plots", "reports", "panels", "cli"),
}


def lazy_names(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package whose public names stand in the stub beside its `__init__`.

    A name loads its module when it is first used, and so does a module of the package.

    Args:
        package: its `__name__`.
        file: its `__file__`.
    """
    # Lines `from .module import name as name`; to parse them by ast would take half the time of importing the package.
    with open(f"{file.removesuffix('.py')}.pyi", encoding="utf-8") as stub:
        words = [line.split() for line in stub if line.startswith("from .")]
    modules = {name: module[1:] for _, module, _, name, *_ in words}

    def get(name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        path = f"{package}.{modules.get(name) or name}"
        try:
            # Not importlib.import_module, which would pass by the import hook of a patched package.
            module = __import__(path, fromlist=["*"])
        except ModuleNotFoundError as error:
            if error.name != path:
                raise
            raise AttributeError(f"module {package!r} has no attribute {name!r}") from None
        return getattr(module, name) if modules.get(name) else module

    return get, lambda: sorted(modules), sorted(modules)


__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
