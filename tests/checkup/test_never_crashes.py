"""Programs of every kind run under the checkup as they do without: same numbers, no error of the checkup's own."""

from __future__ import annotations

import builtins
import contextlib
import copy
import gc
import io
import pickle
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import prune
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

import rislab
import rislab.checkup
from rislab.checkup.process_watch import ProcessWatch
from rislab.checkup.recording.event_source import EventSource
from rislab.checkup.recording.events import Observer
from rislab.checkup.recording.interception import CALLS

# A network, an optimiser, and what is done with them.
Program = tuple[nn.Module, torch.optim.Optimizer, Callable[[], Any]]
PROGRAMS: dict[str, Callable[[], Program]] = {}


def program(make: Callable[[], Program]) -> Callable[[], Program]:
    PROGRAMS[make.__name__.replace("_", " ")] = make
    return make


def network(*more: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.2), nn.Tanh(), *more, nn.Linear(6, 2))


def plain(
    model: nn.Module | None = None,
    make: Callable[[Any], torch.optim.Optimizer] = lambda values: torch.optim.SGD(values, lr=0.1, momentum=0.5),
    backward: Callable[[Tensor], Any] = Tensor.backward,
    steps: int = 5,
) -> Program:
    """A loop whose backward is another."""
    model = model or network()
    optimizer = make(model.parameters())

    def loop() -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            inputs = torch.randn(5, 4)
            backward(functional.mse_loss(model(inputs), inputs[:, :2]))
            optimizer.step()

    return model, optimizer, loop


# Entries of autograd.


@program
def backward_with_a_gradient() -> Program:
    return plain(backward=lambda loss: loss.backward(torch.tensor(0.5)))


@program
def backward_of_a_vector() -> Program:
    return plain(backward=lambda loss: loss.expand(3).backward(torch.ones(3)))


@program
def retained_and_created_graphs() -> Program:
    return plain(backward=lambda loss: (loss.backward(retain_graph=True), loss.backward(create_graph=True)))


@program
def inputs_of_a_backward() -> Program:
    model = network()
    return plain(model, backward=lambda loss: loss.backward(inputs=[*model.parameters()][:2]))


@program
def roots_from_a_generator() -> Program:
    return plain(backward=lambda loss: torch.autograd.backward(one for one in (loss, 2 * loss)))


@program
def roots_by_name() -> Program:
    return plain(backward=lambda loss: torch.autograd.backward(tensors=(loss,), grad_tensors=(torch.ones(()),)))


@program
def seeds_files_and_prints_by_name() -> Program:
    model, optimizer, loop = plain()

    def more() -> None:
        for _ in range(3):
            loop()
            torch.manual_seed(seed=3)
            torch.save(f=io.BytesIO(), obj=model.state_dict())
            print(0.5, model, sep=" of ", file=io.StringIO())

    return model, optimizer, more


@program
def an_edge_of_the_graph() -> Program:
    return plain(backward=lambda loss: torch.autograd.backward(torch.autograd.graph.get_gradient_edge(loss)))


@program
def gradients_put_there_by_hand() -> Program:
    model = network()

    def backward(loss: Tensor) -> None:
        for value, gradient in zip(model.parameters(), torch.autograd.grad(loss, [*model.parameters()]), strict=True):
            value.grad = gradient

    return plain(model, backward=backward)


@program
def a_penalty_on_the_gradient() -> Program:
    model = network()

    def backward(loss: Tensor) -> None:
        gradients = torch.autograd.grad(loss, [*model.parameters()], create_graph=True)
        (loss + sum(one.square().sum() for one in gradients)).backward()

    return plain(model, backward=backward)


@program
def functional_derivatives() -> Program:
    model = network()

    def backward(loss: Tensor) -> None:
        def answer(inputs: Tensor) -> Tensor:
            value: Tensor = model(inputs).square().mean()
            return value

        torch.autograd.functional.jacobian(model, torch.randn(2, 4))
        torch.autograd.functional.hessian(answer, torch.randn(2, 4))
        torch.autograd.functional.vjp(answer, torch.randn(2, 4))
        torch.autograd.functional.jvp(answer, torch.randn(2, 4), torch.ones(2, 4))
        torch.autograd.functional.hvp(answer, torch.randn(2, 4), torch.ones(2, 4))
        loss.backward()

    return plain(model, backward=backward)


@program
def transforms_of_functions() -> Program:
    model = network()
    model[1].p = 0.0  # type: ignore[assignment]

    def backward(loss: Tensor) -> None:
        values = dict(model.named_parameters())

        def of_one(values: dict[str, Tensor], inputs: Tensor) -> Tensor:
            return functional.mse_loss(torch.func.functional_call(model, values, (inputs,)), inputs[:2])

        inputs = torch.randn(3, 4)
        each = torch.func.vmap(torch.func.grad(of_one), in_dims=(None, 0))(values, inputs)
        torch.func.jacrev(model)(inputs[0])
        torch.func.jvp(model, (inputs,), (torch.ones(3, 4),))
        torch.func.hessian(lambda given: functional.mse_loss(model(given), given[:2]))(inputs[0])
        for name, value in values.items():
            value.grad = each[name].mean(0)

    return plain(model, backward=backward)


@program
def forward_mode() -> Program:
    model = network()

    def backward(loss: Tensor) -> None:
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(torch.randn(3, 4), torch.ones(3, 4))
            torch.autograd.forward_ad.unpack_dual(functional.mse_loss(model(dual), torch.zeros(3, 2)))
        loss.backward()

    return plain(model, backward=backward)


class Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        ctx.save_for_backward(inputs)
        return inputs.round()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        with torch.enable_grad():
            inputs = ctx.saved_tensors[0].detach().requires_grad_()
            # A backward within the backward.
            functional.mse_loss(inputs, torch.zeros_like(inputs)).backward()
        return gradient + 0 * inputs.grad


@program
def a_function_of_its_own() -> Program:
    class Rounding(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            value: Tensor = Straight.apply(inputs)  # type: ignore[no-untyped-call]
            return value

    return plain(network(Rounding()))


@program
def hooks_on_saved_tensors() -> Program:
    model, optimizer, loop = plain()

    def saved() -> None:
        with torch.autograd.graph.save_on_cpu():
            loop()
        with torch.autograd.graph.saved_tensors_hooks(lambda value: value.numpy(force=True), torch.from_numpy):
            loop()

    return model, optimizer, saved


@program
def multi_grad_hooks() -> Program:
    model = network()
    calls: list[Any] = []
    torch.autograd.graph.register_multi_grad_hook([*model.parameters()], calls.append)
    model, optimizer, loop = plain(model)
    return model, optimizer, lambda: (loop(), torch.tensor(float(len(calls))))[1]


@program
def backward_within_inference_and_no_grad() -> Program:
    model, optimizer, loop = plain()

    def mixed() -> None:
        with torch.inference_mode():
            functional.mse_loss(model(torch.randn(3, 4)), torch.zeros(3, 2))
        with torch.no_grad():
            functional.mse_loss(model(torch.randn(3, 4)), torch.zeros(3, 2))
        loop()

    return model, optimizer, mixed


@program
def backwards_that_fail_and_are_caught() -> Program:
    def backward(loss: Tensor) -> None:
        loss.backward()
        with contextlib.suppress(RuntimeError):
            loss.backward()  # the graph is gone
        with contextlib.suppress(RuntimeError):
            torch.ones(()).backward()  # no graph
        with contextlib.suppress(RuntimeError):
            torch.ones(3, requires_grad=True).exp().backward()  # a vector without a gradient
        with contextlib.suppress(TypeError):
            torch.autograd.backward(3)  # type: ignore[arg-type]
        with contextlib.suppress(TypeError):
            torch.autograd.grad("loss", None)  # type: ignore[arg-type]
        with contextlib.suppress(RuntimeError):
            torch.autograd.backward(())

    return plain(backward=backward)


# Optimisers.


def _optimizer_programs() -> None:
    special = {"LBFGS", "SparseAdam", "Optimizer"}
    for name, kind in vars(torch.optim).items():
        if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer) and name not in special:
            if name == "Muon":
                # It takes matrices alone.
                PROGRAMS[f"optimiser {name}"] = lambda kind=kind: plain(
                    nn.Sequential(nn.Linear(4, 6, bias=False), nn.Linear(6, 2, bias=False)), kind
                )
            else:
                PROGRAMS[f"optimiser {name}"] = lambda kind=kind: plain(make=lambda values: kind(values, lr=0.01))
    for name in ("SGD", "Adam", "AdamW", "Adagrad"):
        for way in ("foreach", "fused", "differentiable", "maximize"):
            kind = getattr(torch.optim, name)
            if way == "differentiable":
                continue
            PROGRAMS[f"{way} {name}"] = lambda kind=kind, way=way: plain(
                make=lambda values: kind(values, lr=0.01, **{way: True})
            )


_optimizer_programs()


@program
def closures() -> Program:
    model = network()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3, line_search_fn="strong_wolfe")

    def loop() -> None:
        inputs = torch.randn(5, 4)
        for _ in range(4):

            def closure() -> Tensor:
                optimizer.zero_grad()
                loss = functional.mse_loss(model(inputs), inputs[:, :2])
                loss.backward()
                return loss

            optimizer.step(closure)
            optimizer.step(closure=closure)

    return model, optimizer, loop


@program
def closures_that_fail() -> Program:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def loop() -> None:
        for number in range(4):

            def closure(number: int = number) -> float:
                if number % 2:
                    raise ValueError
                functional.mse_loss(model(torch.randn(3, 4)), torch.zeros(3, 2)).backward()
                return 1.0

            with contextlib.suppress(ValueError):
                optimizer.step(closure)

    return model, optimizer, loop


@program
def sparse_gradients() -> Program:
    model = nn.EmbeddingBag(9, 4, sparse=True, mode="sum")
    optimizer = torch.optim.SparseAdam(model.parameters(), lr=0.1)

    def loop() -> None:
        for _ in range(5):
            optimizer.zero_grad()
            functional.mse_loss(model(torch.randint(9, (6, 2))), torch.zeros(6, 4)).backward()
            optimizer.step()

    return model, optimizer, loop


@program
def steps_that_are_replaced() -> Program:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    original = optimizer.step
    optimizer.step = lambda *given: original(*given)  # type: ignore[method-assign]

    def loop() -> None:
        for _ in range(4):
            optimizer.zero_grad()
            functional.mse_loss(model(torch.randn(3, 4)), torch.zeros(3, 2)).backward()
            optimizer.step()

    return model, optimizer, loop


class Lookahead(torch.optim.Optimizer):
    """One that holds another and calls no __init__ of torch's."""

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        self.inner, self.count = inner, 0
        self.param_groups, self.state = inner.param_groups, inner.state
        self.slow = [[value.detach().clone() for value in group["params"]] for group in self.param_groups]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.inner.zero_grad(set_to_none)

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.inner.step(closure)
        self.count += 1
        if self.count % 2 == 0:
            for group, slow in zip(self.param_groups, self.slow, strict=True):
                for value, old in zip(group["params"], slow, strict=True):
                    old.add_(value.detach() - old, alpha=0.5)
                    value.data.copy_(old)


@program
def a_wrapper_without_an_init() -> Program:
    return plain(make=lambda values: Lookahead(torch.optim.SGD([*values], lr=0.1)))


class Sam(torch.optim.Optimizer):
    """Two steps of which the first climbs."""

    def __init__(self, values: Any) -> None:
        super().__init__(values, {"rho": 0.05, "lr": 0.1})
        self.base = torch.optim.SGD(self.param_groups, lr=0.1)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        closure = torch.enable_grad()(closure)
        moved = []
        for group in self.param_groups:
            for value in group["params"]:
                moved.append((value, 0.05 * value.grad.sign()))
                value.add_(moved[-1][1])
        self.zero_grad()
        closure()
        for value, change in moved:
            value.sub_(change)
        self.base.step()


@program
def two_passes_of_sam() -> Program:
    model = network()
    optimizer = Sam(model.parameters())

    def loop() -> None:
        for _ in range(4):
            inputs = torch.randn(5, 4)

            def closure(inputs: Tensor = inputs) -> Tensor:
                loss = functional.mse_loss(model(inputs), inputs[:, :2])
                loss.backward()
                return loss

            closure()
            optimizer.step(closure)
            optimizer.zero_grad()

    return model, optimizer, loop


@program
def steps_within_the_backward() -> Program:
    model = network()
    optimizers = {value: torch.optim.SGD([value], lr=0.1) for value in model.parameters()}

    def step(value: Tensor) -> None:
        optimizers[value].step()
        optimizers[value].zero_grad()

    for value in model.parameters():
        value.register_post_accumulate_grad_hook(step)
    first = next(iter(optimizers.values()))

    def loop() -> None:
        for _ in range(5):
            functional.mse_loss(model(torch.randn(5, 4)), torch.zeros(5, 2)).backward()

    return model, first, loop


@program
def optimisers_that_are_remade() -> Program:
    model = network()
    first = torch.optim.Adam(model.parameters())

    def loop() -> None:
        for _ in range(6):
            optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
            functional.mse_loss(model(torch.randn(5, 4)), torch.zeros(5, 2)).backward()
            optimizer.step()
            optimizer.zero_grad()

    return model, first, loop


@program
def groups_that_come_and_go() -> Program:
    model = network()
    optimizer = torch.optim.SGD(model[0].parameters(), lr=torch.tensor(0.1))

    def loop() -> None:
        for number in range(6):
            if number == 2:
                optimizer.add_param_group({"params": [*model[3].parameters()], "lr": 0.01})
            if number == 4:
                del optimizer.param_groups[0]
            optimizer.zero_grad()
            functional.mse_loss(model(torch.randn(5, 4)), torch.zeros(5, 2)).backward()
            optimizer.step()

    return model, optimizer, loop


@program
def weights_that_are_replaced() -> Program:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def loop() -> None:
        for number in range(6):
            if number == 3:
                model[3] = nn.Linear(6, 2)
                model[0].weight.data = model[0].weight.data.double().float()[:, :4].clone()
                optimizer.param_groups[0]["params"] = [*model.parameters()]
            optimizer.zero_grad(set_to_none=number % 2 == 0)
            functional.mse_loss(model(torch.randn(5, 4)), torch.zeros(5, 2)).backward()
            optimizer.step()

    return model, optimizer, loop


# Copies.


@program
def copies_and_pickles() -> Program:
    model, optimizer, loop = plain()

    def copying() -> list[Tensor]:
        loop()
        twin, twins_optimizer = copy.deepcopy((model, optimizer))
        for _ in range(3):
            twins_optimizer.zero_grad()
            functional.mse_loss(twin(torch.randn(5, 4)), torch.zeros(5, 2)).backward()
            twins_optimizer.step()
        stored = pickle.loads(pickle.dumps((model, optimizer)))
        stored[1].step()
        file = io.BytesIO()
        torch.save({"model": model, "optimizer": optimizer, "state": optimizer.state_dict()}, file)
        file.seek(0)
        back = torch.load(file, weights_only=False)
        loop()
        return [*twin.state_dict().values(), *back["model"].state_dict().values(), *stored[0].state_dict().values()]

    return model, optimizer, copying


# Odd networks.


class Secretive(nn.Module):
    """Answers to every name, or to none."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 2)

    def __getattr__(self, name: str) -> Any:
        if name in ("inner", "_modules", "_parameters", "_buffers"):
            return super().__getattr__(name)
        if name.startswith("__"):
            raise AttributeError(name)
        return f"no {name}"

    def forward(self, inputs: Tensor) -> Any:
        return self.inner(inputs)


@program
def names_that_are_made_up() -> Program:
    return plain(Secretive())


class Slotted(nn.Module):
    __slots__ = ("scale",)

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 2)

    def forward(self, inputs: Tensor) -> Any:
        return self.inner(inputs)

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("compared")

    def __hash__(self) -> int:
        return 1

    def __len__(self) -> int:
        return 0

    def __bool__(self) -> bool:
        raise RuntimeError("asked for its truth")


@program
def networks_that_cannot_be_compared() -> Program:
    model = Slotted()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def loop() -> None:
        for _ in range(4):
            optimizer.zero_grad()
            functional.mse_loss(model(torch.randn(5, 4)), torch.zeros(5, 2)).backward()
            optimizer.step()

    return model, optimizer, loop


@program
def lazy_modules() -> Program:
    model = nn.Sequential(nn.LazyLinear(6), nn.Tanh(), nn.LazyLinear(2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def loop() -> None:
        for _ in range(4):
            optimizer.zero_grad()
            functional.mse_loss(model(torch.randn(5, 4)), torch.zeros(5, 2)).backward()
            optimizer.step()

    return model, optimizer, loop


@program
def complex_parameters() -> Program:
    model = nn.Linear(4, 2, dtype=torch.complex64)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)

    def loop() -> None:
        for number in range(6):
            optimizer.zero_grad()
            output = model(torch.randn(5, 4, dtype=torch.complex64))
            if number % 2:
                output.sum().backward(torch.tensor(1.0 + 1.0j))
            else:
                (output.abs() ** 2).mean().backward()
            optimizer.step()

    return model, optimizer, loop


class Scalar(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.tensor(0.5)), nn.Parameter(torch.zeros(0))

    def forward(self, inputs: Tensor) -> Tensor:
        return (self.scale * inputs)[:, :2]


@program
def parameters_without_dimensions() -> Program:
    return plain(Scalar())


@program
def shared_parameters() -> Program:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Linear(4, 2))
    model[2].weight = model[0].weight
    return plain(model)


@program
def parametrised_and_normed_weights() -> Program:
    model = nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(4, 6)),
        nn.utils.parametrizations.spectral_norm(nn.Linear(6, 6)),
        nn.utils.parametrizations.orthogonal(nn.Linear(6, 2)),
    )
    return plain(model)


@program
def pruned_weights() -> Program:
    model = network()
    prune.random_unstructured(model[0], "weight", 0.3)
    return plain(model)


@program
def quantised_tensors() -> Program:
    model, optimizer, loop = plain()

    def quantising() -> None:
        integer = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
        stored = torch.quantize_per_tensor(torch.randn(4, 4), 0.1, 0, torch.qint8)
        for _ in range(2):
            integer(stored.dequantize())
        nn.ReLU()(stored)
        loop()

    return model, optimizer, quantising


@program
def meta_tensors() -> Program:
    model, optimizer, loop = plain()

    def planning() -> None:
        with torch.device("meta"):
            ghost = network()
        ghosts = torch.optim.Adam(ghost.parameters())
        for _ in range(3):
            ghosts.zero_grad()
            functional.mse_loss(ghost(torch.empty(5, 4, device="meta")), torch.empty(5, 2, device="meta")).backward()
            ghosts.step()
        loop()

    return model, optimizer, planning


@program
def fake_tensors() -> Program:
    model, optimizer, loop = plain()

    def planning() -> None:
        from torch._subclasses.fake_tensor import FakeTensorMode

        with FakeTensorMode():
            ghost = network()
            ghosts = torch.optim.SGD(ghost.parameters(), lr=0.1)
            for _ in range(3):
                functional.mse_loss(ghost(torch.empty(5, 4)), torch.empty(5, 2)).backward()
                ghosts.step()
        loop()

    return model, optimizer, planning


@program
def nested_and_sparse_inputs() -> Program:
    model = network()

    def backward(loss: Tensor) -> None:
        nested = torch.nested.nested_tensor([torch.randn(2, 4), torch.randn(3, 4)], layout=torch.jagged)
        nn.Linear(4, 4)(nested)
        nn.Linear(4, 4)(torch.eye(4).to_sparse().to_dense())
        torch.sparse.mm(torch.eye(5).to_sparse(), model(torch.randn(5, 4))).sum().backward()
        loss.backward()

    return plain(model, backward=backward)


class Tagged(Tensor):
    """A tensor of a class of its own."""


@program
def subclasses_of_tensor() -> Program:
    def backward(loss: Tensor) -> None:
        loss.as_subclass(Tagged).backward()

    return plain(backward=backward)


@program
def outputs_of_odd_kinds() -> Program:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 2)

        def forward(self, inputs: Any, *rest: Any, **named: Any) -> Any:
            answer: dict[str, Any] = {"own": self.inner(inputs), "others": [None, "text", {3}, object()]}
            answer["self"] = answer
            return answer

    model = Odd()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def loop() -> None:
        for _ in range(4):
            optimizer.zero_grad()
            output = model(torch.randn(5, 4), None, "text", key=iter(()), more={1: [2, (3, {})]})
            functional.mse_loss(output["own"], torch.zeros(5, 2)).backward()
            optimizer.step()

    return model, optimizer, loop


class Demanding(nn.Module):
    """Its methods of torch's names ask for more than torch's."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 2)

    def parameters(self, rate: float) -> Any:  # type: ignore[override]
        return [{"params": [*super().parameters()], "lr": rate}]

    def forward(self, inputs: Tensor) -> Any:
        return self.inner(inputs)


@program
def parameters_that_take_arguments() -> Program:
    model = Demanding()
    optimizer = torch.optim.SGD(model.parameters(0.1))

    def loop() -> None:
        for _ in range(4):
            optimizer.zero_grad()
            functional.mse_loss(model(torch.randn(5, 4)), torch.zeros(5, 2)).backward()
            optimizer.step()

    return model, optimizer, loop


@program
def weights_that_are_given_as_they_are() -> Program:
    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self) -> Tensor:
            return self.weight

    model = Table()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def loop() -> None:
        for _ in range(4):
            optimizer.zero_grad()
            model().backward()
            optimizer.step()

    return model, optimizer, loop


@program
def scripted_traced_and_exported_networks() -> Program:
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def loop() -> None:
        traced = torch.jit.trace(model, torch.randn(5, 4))
        scripted = torch.jit.script(model)
        exported = torch.export.export(model, (torch.randn(5, 4),)).module()
        symbolic = torch.fx.symbolic_trace(model)
        for one in (traced, scripted, exported, symbolic, model):
            for _ in range(3):
                optimizer.zero_grad()
                functional.mse_loss(one(torch.randn(5, 4)), torch.zeros(5, 2)).backward()
                optimizer.step()

    return model, optimizer, loop


@program
def data_parallel() -> Program:
    return plain(nn.DataParallel(network()))


@program
def recurrent_networks() -> Program:
    model = nn.LSTM(4, 2, num_layers=2, dropout=0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def loop() -> None:
        state = None
        for _ in range(4):
            optimizer.zero_grad()
            packed = nn.utils.rnn.pack_sequence([torch.randn(3, 4), torch.randn(2, 4)])
            output, state = model(packed, state)
            state = tuple(one.detach() for one in state)
            functional.mse_loss(output.data, torch.zeros(5, 2)).backward()
            optimizer.step()

    return model, optimizer, loop


# Odd surroundings.


class Hostile:
    """Raises at whatever it is asked."""

    @property
    def __class__(self) -> type:  # type: ignore[override]
        raise RuntimeError("asked for its class")

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"asked for {name}")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("compared")

    def __hash__(self) -> int:
        raise RuntimeError("hashed")

    def __bool__(self) -> bool:
        raise RuntimeError("asked for its truth")

    def __repr__(self) -> str:
        raise RuntimeError("shown")


class HostileType(type):
    def __eq__(cls, other: object) -> bool:
        raise RuntimeError("class compared")

    def __hash__(cls) -> int:
        raise RuntimeError("class hashed")

    def __subclasscheck__(cls, other: type) -> bool:
        raise RuntimeError("asked for subclasses")

    def __instancecheck__(cls, other: object) -> bool:
        raise RuntimeError("asked for instances")

    def __getattribute__(cls, name: str) -> Any:
        raise RuntimeError(f"class asked for {name}")


@program
def hostile_objects_in_memory() -> Program:
    model, optimizer, loop = plain()
    target = nn.Linear(2, 2)
    kept = [Hostile(), [Hostile()], weakref.proxy(target), HostileType("Made", (), {})]
    gc.collect()

    def looping() -> None:
        dead = weakref.proxy(nn.Linear(2, 2))
        assert len(kept) == 4 and dead is not None
        loop()

    return model, optimizer, looping


class Halfway(torch.optim.Optimizer):
    """An optimiser whose __init__ never comes to its end, and that stays alive."""

    def __init__(self, kept: list[Any]) -> None:
        kept.append(self)
        raise ValueError("not made")


@program
def optimisers_and_modules_that_were_never_made() -> Program:
    model, optimizer, loop = plain()

    def looping() -> None:
        kept: list[Any] = []
        with contextlib.suppress(ValueError):
            Halfway(kept)
        empty = nn.Module.__new__(nn.Linear)
        unmade = torch.optim.SGD.__new__(torch.optim.SGD)
        scheduler = torch.optim.lr_scheduler.StepLR.__new__(torch.optim.lr_scheduler.StepLR)
        scaler = torch.amp.GradScaler.__new__(torch.amp.GradScaler)
        loop()
        del empty, unmade, scheduler, scaler

    return model, optimizer, looping


@program
def threads_that_train_at_once() -> Program:
    model, optimizer, loop = plain()

    def training() -> list[Tensor]:
        others = [plain(nn.Linear(4, 2), steps=20) for _ in range(3)]
        failures: list[BaseException] = []

        def run(one: Callable[[], Any]) -> None:
            try:
                one()
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=run, args=(other[2],)) for other in others]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures, failures
        torch.manual_seed(3)
        loop()
        return []

    return model, optimizer, training


@program
def watches_within_watches() -> Program:
    model, optimizer, loop = plain()

    def nested() -> None:
        with rislab.watch(model, optimizer) as outer:
            loop()
            with ProcessWatch() as inner, rislab.watch(model, optimizer, loss=functional.mse_loss):
                loop()
            inner.findings()
        outer.findings()
        loop()

    return model, optimizer, nested


@program
def watches_that_end_in_another_order() -> Program:
    model, optimizer, loop = plain()

    def crossed() -> None:
        one, two = ProcessWatch(), rislab.watch(model, optimizer)
        one.__enter__()
        two.__enter__()
        loop()
        one.__exit__(None, None, None)
        loop()
        two.__exit__(None, None, None)
        loop()

    return model, optimizer, crossed


@program
def other_modes_of_torch() -> Program:
    from torch.overrides import TorchFunctionMode
    from torch.utils._python_dispatch import TorchDispatchMode

    class Hearing(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return func(*args, **(kwargs or {}))

    class Dispatching(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return func(*args, **(kwargs or {}))

    model, optimizer, loop = plain()

    def within() -> None:
        with Hearing(), torch.device("cpu"):
            loop()
        with Dispatching():
            loop()
        with torch.autograd.set_detect_anomaly(True), torch.autograd.profiler.profile():
            loop()
        with torch.utils.flop_counter.FlopCounterMode(display=False):
            loop()
        hearing = Hearing()
        for _ in range(3):
            # Entered between a step and the next event.
            hearing.__enter__()
            loop()
            hearing.__exit__(None, None, None)

    return model, optimizer, within


@program
def backwards_that_are_redefined() -> Program:
    model, optimizer, loop = plain()

    def redefined() -> Tensor:
        original, calls = torch.Tensor.backward, []

        def backward(self: Tensor, *given: Any, **named: Any) -> Any:
            calls.append(1)
            return original(self, *given, **named)

        torch.Tensor.backward = backward  # type: ignore[method-assign]
        try:
            loop()
        finally:
            torch.Tensor.backward = original  # type: ignore[method-assign]
        return torch.tensor(float(len(calls)))

    return model, optimizer, redefined


@program
def schedulers_of_all_kinds() -> Program:
    model, optimizer, _ = plain()
    own = torch.optim.lr_scheduler

    class Odd:
        """No class of torch's."""

        last_epoch = "none"

    made: list[Any] = [
        own.ReduceLROnPlateau(optimizer),
        own.ChainedScheduler([own.StepLR(optimizer, 2), own.ExponentialLR(optimizer, 0.9)]),
        own.SequentialLR(optimizer, [own.ConstantLR(optimizer), own.CosineAnnealingLR(optimizer, 4)], [2]),
        own.OneCycleLR(optimizer, 0.1, total_steps=9),
        own.CyclicLR(optimizer, 0.01, 0.1),
        own.LambdaLR(optimizer, lambda tick: undefined_name if tick > 99 else 1.0),  # type: ignore[name-defined] # noqa: F821
        own.MultiplicativeLR(optimizer, lambda tick: 0.9),
        Odd(),
    ]

    def loop() -> None:
        for _ in range(4):
            optimizer.zero_grad()
            loss = functional.mse_loss(model(torch.randn(5, 4)), torch.zeros(5, 2))
            loss.backward()
            optimizer.step()
            for one in made[:-1]:
                one.step(*([float(loss)] if isinstance(one, own.ReduceLROnPlateau) else []))

    return model, optimizer, loop


@program
def errors_in_the_forward() -> Program:
    class Failing(nn.Module):
        calls = 0

        def forward(self, inputs: Tensor) -> Tensor:
            self.calls += 1
            if self.calls % 3 == 0:
                raise ZeroDivisionError
            return inputs

    model = network(Failing())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def loop() -> None:
        for _ in range(9):
            optimizer.zero_grad()
            with contextlib.suppress(ZeroDivisionError):
                functional.mse_loss(model(torch.randn(5, 4)), torch.zeros(5, 2)).backward()
                optimizer.step()

    return model, optimizer, loop


@program
def generators_and_coroutines() -> Program:
    model, optimizer, _ = plain()

    def steps() -> Iterator[Tensor]:
        for _ in range(4):
            optimizer.zero_grad()
            loss = functional.mse_loss(model(torch.randn(5, 4)), torch.zeros(5, 2))
            loss.backward()
            optimizer.step()
            yield loss.detach()

    return model, optimizer, lambda: [*steps()]


@program
def loaded_states() -> Program:
    model, optimizer, loop = plain()

    def loading() -> None:
        loop()
        state = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
        loop()
        model.load_state_dict(state_dict=state[0], strict=False, assign=True)
        optimizer.load_state_dict(state[1])
        with contextlib.suppress(RuntimeError, TypeError):
            model.load_state_dict({"no": torch.zeros(1)})
        with contextlib.suppress(AttributeError, TypeError):
            model.load_state_dict(None)  # type: ignore[arg-type]
        loop()

    return model, optimizer, loading


@program
def clipping_of_odd_kinds() -> Program:
    model, optimizer, _ = plain()

    def loop() -> None:
        for _ in range(4):
            optimizer.zero_grad()
            functional.mse_loss(model(torch.randn(5, 4)), torch.zeros(5, 2)).backward()
            nn.utils.clip_grad_norm_((value for value in model.parameters()), max_norm=torch.tensor(0.1))
            nn.utils.clip_grad_norm_(model[0].weight, 1, norm_type="inf", foreach=False)
            nn.utils.clip_grad_norm_([], 1.0)
            nn.utils.clip_grad_value_(model.parameters(), 0.1)
            with contextlib.suppress(TypeError, ValueError):
                nn.utils.clip_grad_norm_(model.parameters(), "much")  # type: ignore[arg-type]
            with contextlib.suppress(TypeError, AttributeError):
                nn.utils.clip_grad_norm_(None, 1.0)  # type: ignore[arg-type]
            optimizer.step()

    return model, optimizer, loop


@program
def sparse_tensors_as_input_and_output() -> Program:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 2)

        def forward(self, edges: Tensor, values: Tensor | None = None) -> Tensor:
            return edges @ (self.inner.weight.T if values is None else self.inner(values))

    model = nn.ModuleDict({"first": Layer(), "norm": nn.BatchNorm1d(2)})
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def loop() -> list[Tensor]:
        edges, losses = torch.eye(4).to_sparse(), []
        for _ in range(4):
            optimizer.zero_grad()
            given = model["first"](edges, torch.randn(4, 4)) + model["first"](edges)
            loss = functional.mse_loss(model["norm"](given), torch.zeros(4, 2))
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        with torch.no_grad():
            nn.Identity()(edges)
        return losses

    return model, optimizer, loop


# Each program as it is, and watched.


WATCHES: dict[str, Callable[[nn.Module, torch.optim.Optimizer], Any]] = {
    "process": lambda model, optimizer: ProcessWatch(every=1),
    "watch": lambda model, optimizer: rislab.watch(model, optimizer, every=1),
    "loss": lambda model, optimizer: rislab.watch(model, optimizer, loss=functional.mse_loss, accumulation_steps=1),
}


def run(name: str, watch: Callable[[nn.Module, torch.optim.Optimizer], Any]) -> tuple[list[Tensor], Any]:
    """All that a program leaves behind, and its watch."""
    torch.manual_seed(0)
    model, optimizer, loop = PROGRAMS[name]()
    torch.manual_seed(1)
    with watch(model, optimizer) as seen:
        output = loop()
    given = [output] if isinstance(output, Tensor) else output if isinstance(output, list) else []
    gradients = [value.grad for value in nn.Module.parameters(model) if value.grad is not None]
    return [*model.state_dict().values(), *gradients, *given, torch.get_rng_state()], seen


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_runs_as_it_does_unwatched(name: str) -> None:
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        compare(name)
    checkup = str(Path(rislab.checkup.__file__).parent)
    assert not [warning for warning in warned if warning.filename.startswith(checkup)], [*map(str, warned)]


def compare(name: str) -> None:
    bare, _ = run(name, lambda *_: contextlib.nullcontext())
    before = replaced()
    for kind, watch in WATCHES.items():
        watched, seen = run(name, watch)
        assert len(watched) == len(bare), kind
        for one, other in zip(watched, bare, strict=True):
            one, other = (value.to_dense() if value.is_sparse else value for value in (one, other))
            assert torch.equal(torch.nan_to_num(one), torch.nan_to_num(other)), kind
        findings = seen.findings()
        assert not [finding for finding in findings if "Error" in finding.evidence], str(findings)
        assert replaced() == before


class Holding(torch.optim.Optimizer):
    """A wrapper that reports steps of its own around those of what it holds."""

    def __init__(self, values: Any) -> None:
        super().__init__(values, {"lr": 0.1})
        self._base = torch.optim.SGD(self.param_groups, lr=0.1)

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self._base.step(closure)


PROGRAMS["a wrapper with steps of its own"] = lambda: plain(make=Holding)


@pytest.mark.parametrize("kind", WATCHES)
def test_a_wrapper_and_what_it_holds_are_one_optimiser(kind: str) -> None:
    model, optimizer, loop = plain(make=Holding)
    with WATCHES[kind](model, optimizer) as watch:
        loop()
    assert not watch.findings(), str(watch.findings())


def replaced() -> list[Any]:
    functions = [torch.autograd.backward, torch.autograd.grad, nn.utils.clip_grad_norm_, nn.Module.load_state_dict]
    return [*functions, torch.save, torch.manual_seed, builtins.print, DataLoader.__iter__, DistributedSampler.__iter__]


@pytest.mark.slow
def test_all_is_as_it_was_in_whatever_order_watches_end() -> None:
    before = replaced()
    model, optimizer, loop = plain()
    for order in ((0, 1, 2), (2, 1, 0), (1, 0, 2)):
        watches = [ProcessWatch(), rislab.watch(model, optimizer), ProcessWatch()]
        for watch in watches:
            watch.__enter__()
        for place in order:
            loop()
            assert replaced() != before
            watches[place].__exit__(None, None, None)
        assert replaced() == before
        with pytest.raises(TypeError):
            torch.overrides.handle_torch_function(lambda: None, ())  # no mode is left


def test_what_a_loop_puts_there_meanwhile_stays_there(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, calls = plain()[2], []
    with ProcessWatch() as watch:
        reported = torch.autograd.backward

        def own(*args: Any, **kwargs: Any) -> None:
            calls.append(1)
            reported(*args, **kwargs)

        monkeypatch.setattr(torch.autograd, "backward", own)
        loop()
    assert watch.backwards == 5
    assert torch.autograd.backward is own
    loop()
    assert len(calls) == 10
    monkeypatch.undo()
    torch.autograd.backward = reported.replacement._original  # type: ignore[attr-defined]


@pytest.mark.filterwarnings("error")
def test_a_loss_that_is_watched_is_copied_and_stored_as_any_other() -> None:
    model, loss = network(), nn.MSELoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with rislab.watch(model, optimizer, loss=loss) as watch:
        output = model(torch.ones(2, 4))
        value = loss(output, torch.zeros(2, 2))
        copied, stored = copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))
        torch.save([value, output], io.BytesIO())
        copied(output, output)
        stored(output, output)
        value.backward()
        optimizer.step()
    assert len(watch.trace.micro_batches) == 1 and not watch.findings().faults


@pytest.mark.parametrize("kind", WATCHES)
def test_an_error_of_the_checkup_is_a_finding(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimizer, loop = plain()

    def broken(*_: Any) -> None:
        raise LookupError("none such")

    for module, name in (
        ("observers.input_changes.InputChanges", "on_forward_end"),
        ("recording.event_source", "has_numbers"),
        ("observers.plateaus.PlateauModes", "findings"),
        ("diagnosis", "watched_run"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(f"rislab.checkup.{module}.{name}", broken)
            with WATCHES[kind](model, optimizer) as watch:
                loop()
            findings = watch.findings()
        assert any("LookupError: none such" in finding.evidence for finding in findings.unjudged), str(findings)


def _schedule(kind: type[Any], *given: Any) -> None:
    optimizer = torch.optim.SGD(nn.Linear(2, 1).parameters(), lr=0.1)
    scheduler = kind(optimizer, *((lambda epoch: 1.0,) if kind is LambdaLR else ()))
    optimizer.step()
    scheduler.step(*given)


REPORTED: dict[str, Callable[[], Any]] = {
    "on_pass": lambda: list(DataLoader([torch.ones(1)])),
    "on_order": lambda: list(DistributedSampler([1, 2], num_replicas=1, rank=0)),  # type: ignore[arg-type]
    "on_seed": lambda: torch.manual_seed(0),
    "on_save": lambda: torch.save({}, io.BytesIO()),
    "on_state": lambda: nn.Linear(2, 1).state_dict(),
    "on_print": lambda: print("a line of 1.5"),
    "on_schedule": lambda: _schedule(LambdaLR),
    "on_plateau": lambda: _schedule(ReduceLROnPlateau, 1.0),
    "on_group": lambda: torch.optim.SGD([torch.zeros(2, requires_grad=True)], lr=0.1),
    "on_scaler_update": lambda: torch.amp.GradScaler("cpu", enabled=False).update(),
    "on_checkpoint": lambda: torch.utils.checkpoint.checkpoint(torch.exp, torch.ones(1), use_reentrant=False),
    "on_sample": lambda: torch.distributions.Normal(0.0, 1.0).sample(),
    "on_entropy": lambda: torch.distributions.Normal(0.0, 1.0).entropy(),
    "on_log_prob": lambda: torch.distributions.Normal(0.0, 1.0).log_prob(torch.ones(1)),
}


@pytest.mark.parametrize("event", CALLS)
def test_an_observer_that_fails_at_a_call_harms_no_call(event: str) -> None:
    class Failing(Observer):
        pass

    def broken(*_: Any) -> None:
        raise LookupError("none such")

    setattr(Failing, event, broken)
    source = EventSource([Failing()], ()).__enter__()
    try:
        REPORTED[event]()
    finally:
        source.close(None)
    assert source.listeners.failures == [f"Failing.{event}: LookupError: none such"]


def test_observers_replace_nothing_themselves() -> None:
    observers = Path(rislab.checkup.__file__).parent / "observers"
    assert [path.name for path in observers.glob("*.py") if "Replacement" in path.read_text()] == []
