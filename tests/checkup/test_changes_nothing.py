"""A watched loop does what it does unwatched, bit by bit: weights, losses, random state, calls of its own hooks."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import rislab
from rislab.checkup.process_watch import ProcessWatch

OPTIMIZERS: dict[str, Callable[[list[Tensor]], torch.optim.Optimizer]] = {
    "sgd": lambda values: torch.optim.SGD(values, lr=0.05, momentum=0.9, nesterov=True),
    "sgd foreach": lambda values: torch.optim.SGD(values, lr=0.05, foreach=True),
    "adam": lambda values: torch.optim.Adam(values, lr=0.01, amsgrad=True),
    "adam fused": lambda values: torch.optim.Adam(values, lr=0.01, fused=True),
    "adamw foreach": lambda values: torch.optim.AdamW(values, lr=0.01, foreach=True),
    "adagrad": lambda values: torch.optim.Adagrad(values, lr=0.01),
    "adadelta": torch.optim.Adadelta,
    "adafactor": torch.optim.Adafactor,
    "adamax": torch.optim.Adamax,
    "asgd": torch.optim.ASGD,
    "nadam": torch.optim.NAdam,
    "radam": torch.optim.RAdam,
    "rmsprop": torch.optim.RMSprop,
    "rprop": torch.optim.Rprop,
    "lbfgs": lambda values: torch.optim.LBFGS(values, lr=0.1, max_iter=3),
}
LAYERS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(6, 6),
    "batch norm": lambda: nn.BatchNorm1d(6),
    "layer norm": lambda: nn.LayerNorm(6),
    "dropout": lambda: nn.Dropout(0.3),
    "tanh": nn.Tanh,
    "relu": lambda: nn.ReLU(inplace=True),
    "residual": lambda: Residual(),
}
BACKWARDS = ("backward", "several roots", "retained", "inputs", "grad", "vector", "penalty")
HOOKS = ("tensor counts", "tensor noise", "module keeps", "after accumulation", "output noise")


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 6)

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + self.inner(inputs).relu()


@st.composite
def loops(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "layers": draw(st.lists(st.sampled_from(sorted(LAYERS)), min_size=1, max_size=4)),
        "hooks": draw(st.sets(st.sampled_from(HOOKS), max_size=3)),
        "optimizer": draw(st.sampled_from(sorted(OPTIMIZERS))),
        "size": draw(st.integers(1, 4)),
        "precision": draw(st.sampled_from(["fp32", "fp64", "bf16", "fp16"])),
        "clip": draw(st.booleans()),
        "backward": draw(st.sampled_from(BACKWARDS)),
        "checkpoint": draw(st.sampled_from(["", "", "reentrant", "plain"])),
        "own": draw(st.booleans()),  # a loss of the loop's own
    }


def _numpy_state() -> Any:
    return np.random.get_state()[1].astype(np.int64)  # type: ignore[index, union-attr]


class Loop:
    """A loop made by a draw; run() gives all that it left behind."""

    def __init__(self, drawn: dict[str, Any], change: Callable[[nn.Module], nn.Module] = lambda model: model) -> None:
        torch.manual_seed(0)
        self.drawn, self.calls, self.kept = drawn, 0, torch.zeros(1)
        middle = nn.Sequential(*(LAYERS[name]() for name in drawn["layers"]))
        self.model: nn.Module = nn.Sequential(nn.Linear(4, 6), middle, nn.Linear(6, 1))
        if drawn["precision"] == "fp64":
            self.model.double()
        self._hook(middle)
        self.network = change(self.model)
        self.optimizer = OPTIMIZERS[drawn["optimizer"]]([*self.model.parameters()])
        self.scaler = torch.amp.GradScaler("cpu", init_scale=64.0, enabled=drawn["precision"] == "fp16")
        self.losses: list[Tensor] = []

    def _hook(self, middle: nn.Module) -> None:
        hooks, weight = self.drawn["hooks"], next(self.model.parameters())

        def count(*_: Any) -> None:
            self.calls += 1

        def noise(gradient: Tensor) -> Tensor:
            return gradient + 0.01 * torch.randn_like(gradient)

        def keep(module: nn.Module, before: Any, after: tuple[Tensor, ...]) -> None:
            self.calls += 1
            self.kept = 0.5 * self.kept + after[0].detach().double().sum()

        if "tensor counts" in hooks:
            weight.register_hook(count)
        if "tensor noise" in hooks:
            weight.register_hook(noise)
        if "module keeps" in hooks:
            self.model[2].register_full_backward_hook(keep)  # type: ignore[index]
        if "after accumulation" in hooks:
            weight.register_post_accumulate_grad_hook(count)
        if "output noise" in hooks:
            middle.register_forward_hook(lambda module, given, output: output + 0.01 * torch.randn_like(output))

    def _loss(self, inputs: Tensor) -> Tensor:
        kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.drawn["precision"])
        with torch.autocast("cpu", kind) if kind else contextlib.nullcontext():
            if self.drawn["checkpoint"]:
                inputs.requires_grad_()
                output = checkpoint(self.network, inputs, use_reentrant=self.drawn["checkpoint"] == "reentrant")
            else:
                output = self.network(inputs)
            target = inputs.detach().sum(1, keepdim=True)
            if self.drawn["own"]:
                return (output - target).abs().float().mean()
            return nn.functional.mse_loss(output.float(), target.float())

    def _backward(self, loss: Tensor, inputs: Tensor) -> None:
        kind, values = self.drawn["backward"], [*self.model.parameters()]
        if self.drawn["checkpoint"] == "reentrant" and kind in ("grad", "inputs", "penalty"):
            kind = "backward"  # torch allows no other
        scaled = self.scaler.scale(loss / self.drawn["size"])
        if kind == "several roots":
            torch.autograd.backward([scaled, 0.1 * scaled], [torch.ones_like(scaled), torch.ones_like(scaled)])
        elif kind == "retained":
            scaled.backward(retain_graph=True)
            scaled.backward()
        elif kind == "inputs":
            scaled.backward(inputs=values)
        elif kind == "vector":
            scaled.expand(3).backward(torch.tensor([0.2, 0.3, 0.5], dtype=scaled.dtype))
        elif kind == "penalty":
            slope = torch.autograd.grad(scaled, values, create_graph=True, allow_unused=True)
            (scaled + 0.01 * sum(one.square().sum() for one in slope if one is not None)).backward()
        elif kind == "grad":
            for value, gradient in zip(values, torch.autograd.grad(scaled, values), strict=True):
                value.grad = gradient if value.grad is None else value.grad + gradient
        else:
            scaled.backward()

    def window(self) -> Tensor:
        """Forwards and backwards of a window; the last loss."""
        self.optimizer.zero_grad()
        dtype = torch.float64 if self.drawn["precision"] == "fp64" else torch.float32
        for _ in range(self.drawn["size"]):
            inputs = torch.randn(5, 4, dtype=dtype)
            loss = self._loss(inputs)
            self._backward(loss, inputs)
            self.losses.append(loss.detach())
        return loss

    def run(self, watch: contextlib.AbstractContextManager[Any]) -> list[Tensor]:
        torch.manual_seed(1)
        random.seed(1)
        np.random.seed(1)
        with watch:
            for _ in range(4):
                if self.drawn["optimizer"] == "lbfgs":
                    self.optimizer.step(self.window)  # type: ignore[arg-type]
                    continue
                self.window()
                if self.drawn["clip"]:
                    self.scaler.unscale_(self.optimizer)
                    nn.utils.clip_grad_norm_(self.model.parameters(), 0.5)
                self.scaler.step(self.optimizer)
                self.scaler.update()
        counts = torch.tensor([float(self.calls)])
        states = [torch.get_rng_state(), torch.tensor(random.getstate()[1]), torch.from_numpy(_numpy_state())]
        return [*self.model.state_dict().values(), *self.losses, self.kept, counts, *states]


WATCHES: dict[str, Callable[[Loop], Any]] = {
    "every window": lambda loop: rislab.watch(loop.model, loop.optimizer, scaler=loop.scaler, every=1),
    "watch": lambda loop: rislab.watch(loop.model, loop.optimizer, loss=nn.functional.mse_loss),
    "process": lambda loop: ProcessWatch(every=1),
}


def assert_unchanged(make: Callable[[], Loop]) -> None:
    bare = make().run(contextlib.nullcontext())
    for name, watch in WATCHES.items():
        loop = make()
        seen = watch(loop)
        watched = loop.run(seen)
        assert len(watched) == len(bare), name
        pairs = zip(watched, bare, strict=True)
        assert all(torch.equal(one.nan_to_num(), other.nan_to_num()) for one, other in pairs), name
        assert not [finding for finding in seen.findings() if "Error" in finding.evidence], name


@pytest.mark.slow
@settings(max_examples=8, derandomize=True, deadline=None)
@given(drawn=loops())
def test_a_loop_runs_as_it_does_unwatched(drawn: dict[str, Any]) -> None:
    if drawn["optimizer"] == "lbfgs":
        drawn = {**drawn, "precision": "fp32"}  # its step needs more than a scaler hands on
    assert_unchanged(lambda: Loop(drawn))


def test_embeddings_of_sparse_gradients_are_left_alone() -> None:
    def run(watched: Callable[[nn.Module, torch.optim.Optimizer], Any]) -> list[Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(9, 4, sparse=True), nn.Flatten())
        optimizer = torch.optim.SparseAdam(model.parameters(), lr=0.1)
        with watched(model, optimizer):
            for _ in range(5):
                optimizer.zero_grad()
                model(torch.randint(9, (6, 1))).square().mean().backward()
                optimizer.step()
        return [*model.state_dict().values(), torch.get_rng_state()]

    bare = run(lambda *_: contextlib.nullcontext())
    assert all(map(torch.equal, run(lambda model, optimizer: rislab.watch(model, optimizer, every=1)), bare))
    assert all(map(torch.equal, run(lambda *_: ProcessWatch(every=1)), bare))


def test_optimisers_in_hooks_of_the_backward_are_left_alone() -> None:
    def run(watch: Callable[[], Any]) -> list[Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Dropout(0.2), nn.Linear(6, 1))
        for value in model.parameters():
            optimizer = torch.optim.SGD([value], lr=0.1)

            def step(_: Tensor, optimizer: torch.optim.Optimizer = optimizer) -> None:
                optimizer.step()
                optimizer.zero_grad()

            value.register_post_accumulate_grad_hook(step)
        with watch():
            for _ in range(5):
                model(torch.randn(6, 4)).square().mean().backward()
        return [*model.state_dict().values(), torch.get_rng_state()]

    assert all(map(torch.equal, run(lambda: ProcessWatch(every=1)), run(contextlib.nullcontext)))


@pytest.mark.process
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("part", ["network", "network in place", "loss", "optimizer"])
def test_compiled_parts_with_dropout_run_as_they_do_unwatched(backend: str, part: str) -> None:
    drawn = {
        "layers": ["dropout", "linear", "relu"],
        "hooks": set(),
        "optimizer": "sgd",
        "size": 2,
        "precision": "fp32",
        "clip": True,
        "backward": "backward",
        "checkpoint": "",
        "own": False,
    }

    def make() -> Loop:
        torch._dynamo.reset()
        loop = Loop(drawn, lambda model: torch.compile(model, backend=backend) if part == "network" else model)
        if part == "network in place":
            loop.network.compile(backend=backend)
        elif part == "loss":
            loop._loss = torch.compile(loop._loss, backend=backend)  # type: ignore[method-assign]
        elif part == "optimizer":
            loop.optimizer.step = torch.compile(loop.optimizer.step, backend=backend)  # type: ignore[method-assign]
        return loop

    assert_unchanged(make)


class Augmented(torch.utils.data.Dataset[Tensor]):
    """Samples with noise of three kinds of random numbers."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, place: int) -> Tensor:
        return place + torch.randn(4) + random.random() + float(np.random.rand())


@pytest.mark.process
def test_workers_of_a_data_loader_draw_what_they_draw_unwatched() -> None:
    def run(watch: contextlib.AbstractContextManager[Any]) -> list[Tensor]:
        torch.manual_seed(0)
        model = nn.Linear(4, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

        def seed(worker: int) -> None:
            random.seed(worker)
            np.random.seed(worker)

        loader = torch.utils.data.DataLoader(
            Augmented(), batch_size=4, shuffle=True, num_workers=2, worker_init_fn=seed, persistent_workers=True
        )
        inputs = []
        with watch:
            for _ in range(2):
                for batch in loader:
                    optimizer.zero_grad()
                    nn.functional.mse_loss(model(batch), batch[:, :1]).backward()
                    optimizer.step()
                    inputs.append(batch)
        return [*model.state_dict().values(), *inputs, torch.get_rng_state()]

    assert all(map(torch.equal, run(ProcessWatch(every=1)), run(contextlib.nullcontext())))


def test_weights_may_be_swapped_under_a_watch() -> None:
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ProcessWatch(every=1):
        for step in range(6):
            optimizer.zero_grad()
            nn.functional.mse_loss(model(torch.randn(6, 4)), torch.zeros(6, 1)).backward()
            optimizer.step()
            if step == 3:
                # It refuses tensors to which there is a weak reference.
                torch.utils.swap_tensors(model.bias, nn.Parameter(model.bias.detach().clone()))
                optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
