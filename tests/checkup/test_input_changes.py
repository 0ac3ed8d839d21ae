"""Data that are changed in place are told; a buffer that is filled anew, and data that are read only, are not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from rislab.checkup.process_watch import ProcessWatch


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["normalised in place", "normalised in a copy", "buffer filled anew", "made anew"])
def test_inputs_that_are_changed_in_place_are_told(kind: str) -> None:
    torch.manual_seed(0)
    data, buffer = torch.rand(64, 8), torch.empty(16, 8)
    model = nn.Linear(8, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with ProcessWatch() as watch:
        for _ in range(4):
            for inputs in data.split(16):
                if kind == "normalised in place":
                    inputs.sub_(0.5).div_(0.3)
                elif kind == "normalised in a copy":
                    inputs = (inputs - 0.5) / 0.3
                elif kind == "made anew":
                    inputs = torch.linspace(0, 1 + float(torch.rand(())), 128).reshape(16, 8)
                else:
                    inputs = buffer.copy_(torch.rand(16, 8))
                optimizer.zero_grad()
                nn.functional.mse_loss(model(inputs), torch.ones(16, 1)).backward()
                optimizer.step()
    names = [finding.name for finding in watch.findings() if finding.code == "C16"]
    assert names == (["inputs changed in place"] if kind == "normalised in place" else [])


class Data(Dataset[Tensor]):
    """Samples that are read in some way."""

    def __init__(self, kind: str) -> None:
        images = torch.rand(32, 1, 6, 6)
        self.images: Tensor | NDArray[np.float32] = images.numpy() if kind == "array in place" else images
        self.kind, self.read = kind, [False] * 32

    def __len__(self) -> int:
        return 32

    def __getitem__(self, place: int) -> Tensor:
        image = self.images[place]
        if "in place" in self.kind or (self.kind == "once" and not self.read[place]):
            image -= 0.5
            image /= 0.3
        elif self.kind == "into 0 to 1":
            image /= 255
        elif self.kind == "annealed":
            image *= 0.9
        elif self.kind == "drifting":
            image += 0.5
        elif self.kind == "to norm 1":
            image -= image.mean()
            image /= image.norm()
        elif self.kind == "in a copy":
            image = (image - 0.5) / 0.3
        self.read[place] = True
        return torch.as_tensor(image)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["in place", "array in place", "once", "to norm 1", "in a copy", "filled anew"])
def test_a_dataset_that_changes_what_it_holds_is_told(kind: str) -> None:
    torch.manual_seed(0)
    data = Data(kind)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with ProcessWatch() as watch:
        for _ in range(6):
            if kind == "filled anew" and isinstance(data.images, Tensor):
                data.images.copy_(torch.rand(32, 1, 6, 6))
            for inputs in DataLoader(Subset(data, range(32)), batch_size=16, shuffle=True):
                optimizer.zero_grad()
                nn.functional.mse_loss(model(inputs), torch.ones(16, 1)).backward()
                optimizer.step()
    found = [finding for finding in watch.findings() if finding.code == "C16"]
    assert [finding.name for finding in found] == (["inputs changed in place"] if "in place" in kind else [])
    assert all("test_input_changes.py" in finding.where for finding in found)


@pytest.mark.parametrize(
    ("kind", "severities"),
    [("in place", ["fault"]), ("into 0 to 1", ["fault"]), ("annealed", ["warning"]), ("drifting", ["warning"])],
)
def test_one_map_again_in_each_pass_is_certain_unless_it_may_be_meant(kind: str, severities: list[str]) -> None:
    torch.manual_seed(0)
    data = Data(kind)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    with ProcessWatch() as watch:
        for _ in range(6):
            for inputs in DataLoader(data, batch_size=16, shuffle=True):
                optimizer.zero_grad()
                nn.functional.mse_loss(model(inputs), torch.ones(16, 1)).backward()
                optimizer.step()
    assert [one.severity for one in watch.findings() if one.name == "inputs changed in place"] == severities


class Targets(Dataset[tuple[Tensor, Tensor]]):
    """Pairs whose targets are scaled as they are read."""

    def __init__(self, kind: str) -> None:
        self.kind, self.inputs, values = kind, torch.rand(64, 40), 20 * torch.rand(64) + 5
        self.values: Tensor | list[float] = values.tolist() if kind == "list" else values

    def __len__(self) -> int:
        return 64

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor]:
        if self.kind == "copy":
            return self.inputs[place], (self.values[place] - torch.tensor(5)) / 20
        if self.kind == "annealed":
            self.values[place] *= 0.9
        elif self.kind != "new":
            self.values[place] = (self.values[place] - 5) / 20
        return self.inputs[place], torch.as_tensor(self.values[place]).clone()


@pytest.mark.parametrize(
    ("kind", "severities"),
    [("tensor", ["fault"]), ("list", ["fault"]), ("annealed", ["warning"]), ("new", []), ("copy", [])],
)
def test_targets_that_are_changed_in_place_are_told(kind: str, severities: list[str]) -> None:
    """Targets that are estimated anew in each epoch are no such thing."""
    torch.manual_seed(0)
    data, model = Targets(kind), nn.Linear(40, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    with ProcessWatch() as watch:
        for _ in range(6):
            if kind == "new":
                data.values = 20 * torch.rand(64)
            for inputs, targets in DataLoader(data, batch_size=16, shuffle=True):
                optimizer.zero_grad()
                nn.functional.mse_loss(model(inputs)[:, 0], targets).backward()
                optimizer.step()
    found = [one for one in watch.findings() if one.name == "inputs changed in place"]
    assert [one.severity for one in found] == severities
    assert all("test_input_changes.py" in one.where for one in found)


@pytest.mark.parametrize("in_place", [True, False])
def test_a_collation_that_changes_the_samples_is_told(in_place: bool) -> None:
    torch.manual_seed(0)
    data, model = list(zip(torch.rand(64, 8), torch.eye(4).repeat(16, 1), strict=True)), nn.Linear(8, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)

    def smoothed(batch: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        if in_place:
            for _, target in batch:
                target.mul_(0.9).add_(0.025)
        return torch.stack([one for one, _ in batch]), torch.stack([0.9 * one + 0.025 for _, one in batch])

    with ProcessWatch() as watch:
        for _ in range(6):
            for inputs, targets in DataLoader(data, batch_size=16, shuffle=True, collate_fn=smoothed):  # type: ignore[arg-type]
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(inputs), targets).backward()
                optimizer.step()
    found = [one for one in watch.findings() if one.name == "inputs changed in place"]
    assert [one.severity for one in found] == ["fault"] * in_place
    assert all("test_input_changes.py" in one.where for one in found)
