"""The public names: each loads, each function has the signature that users rely on, and the stubs say the same."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest
import torch

import rislab

ROOT = Path(rislab.__file__).parent
PACKAGES = ["rislab", *(f"rislab.{room}" for rooms in rislab.ROOMS.values() for room in rooms)]

# Parameters that may be relied on, and what is returned. More may follow, by keyword and with a default.
CONTRACTS = {
    "simulate": ("config, count, *, seed, split='train', start=0, device='cpu'", "SceneBatch"),
    "fit": ("model, data, config, *, validation=None, resume=None", "Generator[Record]"),
    "evaluate": ("model, data", "Evaluation"),
    "music_spectrum": ("covariance_or_factor, sources, grid, *, refine=True", "Spectrum"),
    "mvdr_spectrum": ("covariance_or_factor, sources, grid, *, loading=1e-3, refine=True", "Spectrum"),
    "bartlett_spectrum": ("covariance_or_factor, sources, grid, *, refine=True", "Spectrum"),
    "sparse": ("batch, sources", "Estimate"),
    "polish": ("batch, estimate", "Estimate"),
    "model_order": ("batch, most", "Tensor"),
    "crb": ("batch, *, kind='deterministic'", "Bound"),
    "match": ("estimate, batch", "Matching"),
    "probe": ("model, loss, data", "Findings"),
}
# fmt: off
CLASSES = [
    "SceneConfig", "SceneBatch", "ArrayGeometry", "Grid", "CovarianceNet", "TrainConfig", "StepRecord", "EpochRecord",
    "Measurement", "Estimate", "Spectrum", "Bound", "Matching", "Finding", "Findings", "InputError",
]
WATCH = {
    "loss": None, "accumulation_steps": None, "scaler": None, "scheduler": None, "mean": "samples", "clip_norm": None,
    "every": 2,
}
# fmt: on


def stub_names(package: str) -> dict[str, str]:
    """Module that each name of a package's stub comes from, "" for a module itself."""
    stub = ROOT.joinpath(*package.split(".")[1:]) / "__init__.pyi"
    imports = [node for node in ast.parse(stub.read_text()).body if isinstance(node, ast.ImportFrom) and node.level]
    names = {alias.asname or alias.name: (alias, node.module or "") for node in imports for alias in node.names}
    assert all(name == alias.name for name, (alias, _) in names.items())
    return {name: module for name, (_, module) in names.items()}


def contract(parameters: str) -> inspect.Signature:
    """The signature that a list of parameters stands for."""
    return inspect.signature(eval(f"lambda {parameters}: None"))


@pytest.mark.parametrize("package", PACKAGES)
def test_the_names_of_a_package_are_those_of_its_stub_and_each_loads(package: str) -> None:
    names = stub_names(package)
    module = importlib.import_module(package)
    assert module.__all__ == sorted(names)
    assert dir(module) == sorted(names)
    for name, origin in names.items():
        value = getattr(module, name)
        path = f"{package}.{origin or name}"
        assert value is (getattr(importlib.import_module(path), name) if origin else importlib.import_module(path))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = module.nothing


@pytest.mark.parametrize("package", PACKAGES)
def test_no_name_is_hidden_by_a_module_of_its_package(package: str) -> None:
    """Python sets a module as an attribute of its package once it is imported; a name of the stub would be lost."""
    folder = ROOT.joinpath(*package.split(".")[1:])
    modules = {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/__init__.py")}
    assert modules.isdisjoint(name for name, origin in stub_names(package).items() if origin)


@pytest.mark.parametrize("name", CONTRACTS)
def test_a_function_has_the_signature_that_users_rely_on(name: str) -> None:
    parameters, returned = CONTRACTS[name]
    signature = inspect.signature(getattr(rislab, name))
    assert signature.return_annotation == returned
    actual: dict[str, Any] = dict(signature.parameters)
    for wanted in contract(parameters).parameters.values():
        own = actual.pop(wanted.name)
        assert (own.kind, own.default) == (wanted.kind, wanted.default), wanted.name
    for more in actual.values():
        assert more.kind is inspect.Parameter.KEYWORD_ONLY and more.default is not inspect.Parameter.empty, more.name


def test_classes_are_classes_and_an_input_error_is_a_value_error() -> None:
    assert all(inspect.isclass(getattr(rislab, name)) for name in CLASSES)
    assert issubclass(rislab.InputError, ValueError)


def test_a_watch_takes_its_declarations_and_gives_findings() -> None:
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert [*inspect.signature(rislab.watch).parameters][:2] == ["model", "optimizer"]
    with rislab.watch(model, optimizer, **WATCH) as watch:
        loss = torch.nn.functional.mse_loss(model(torch.ones(4, 2)), torch.ones(4, 1))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert isinstance(watch.findings(reported=None), rislab.Findings)
    assert callable(watch.loss)
