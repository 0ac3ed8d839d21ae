"""What a loop computes and never uses, and what looks like it: each rule on a faulty loop, and on its correct twin."""

from __future__ import annotations

import inspect
import re
import runpy
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import rislab
from rislab.checkup.findings import Findings
from rislab.checkup.process_watch import ProcessWatch
from rislab.checkup.recording.windows import Declared

functional = nn.functional
Loop = Callable[[bool], None]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))


def batch() -> tuple[Tensor, Tensor]:
    inputs = torch.randn(16, 4)
    return inputs, inputs.sum(1, keepdim=True)


def own_loss(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().mean()


def four_steps(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for _ in range(4):
        inputs, target = batch()
        optimizer.zero_grad()
        own_loss(model(inputs), target).backward()
        optimizer.step()


def backward_after_the_batches(faulty: bool) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(3):
        for place in range(4):
            inputs, target = batch()
            optimizer.zero_grad()
            loss = own_loss(model(inputs), target)
            if place == 3 or not faulty:
                loss.backward()
                optimizer.step()


def a_readout_at_each_place(faulty: bool) -> None:
    """Layers of a recurrent network that the loop calls itself: of its outputs only the last of a sequence is used."""
    torch.manual_seed(0)
    state, readout = nn.Linear(9, 8), nn.Linear(8, 1)
    optimizer = torch.optim.SGD([*state.parameters(), *readout.parameters()], lr=0.01)
    for place in range(16):
        inputs, target = batch()
        hidden = torch.zeros(16, 8)
        for column in inputs.split(1, 1):
            hidden = torch.tanh(state(torch.cat([column, hidden], 1)))
            output = readout(hidden)
        optimizer.zero_grad()
        loss = own_loss(output, target)
        if place % 4 == 3 or not faulty:
            loss.backward()
            optimizer.step()


def clip(after_the_step: bool) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(6):
        inputs, target = batch()
        optimizer.zero_grad()
        own_loss(model(inputs), target).backward()
        if not after_the_step:
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        if after_the_step:
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)


def clip_a_generator(faulty: bool) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    parameters = (value for value in model.parameters()) if faulty else list(model.parameters())
    list(parameters)
    for _ in range(6):
        inputs, target = batch()
        optimizer.zero_grad()
        own_loss(model(inputs), target).backward()
        nn.utils.clip_grad_norm_(parameters, 0.1)
        optimizer.step()


def clip_another_network(faulty: bool) -> None:
    model, other = network(), network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(6):
        inputs, target = batch()
        optimizer.zero_grad()
        own_loss(model(inputs), target).backward()
        nn.utils.clip_grad_norm_((other if faulty else model).parameters(), 0.1)
        optimizer.step()


def optimizer_made_anew(faulty: bool) -> None:
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(8):
        if faulty:
            optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        inputs, target = batch()
        optimizer.zero_grad()
        own_loss(model(inputs), target).backward()
        optimizer.step()


def factors_that_begin_at_zero(faulty: bool) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4, bias=False), nn.Linear(4, 1, bias=False))
    nn.init.zeros_(model[2].weight)
    if faulty:
        nn.init.zeros_(model[1].weight)
    optimizer = torch.optim.SGD([*model.parameters(), *(scale := nn.Linear(3, 1)).parameters()], lr=0.1)
    for _ in range(12):
        inputs = torch.randn(8, 3)
        optimizer.zero_grad()
        own_loss(model(inputs) + scale(inputs), inputs.sum(1, keepdim=True)).backward()
        optimizer.step()


class ListOfLayers(nn.Module):
    def __init__(self, faulty: bool) -> None:
        super().__init__()
        layers = [nn.Linear(4, 4), nn.Linear(4, 4)]
        self.layers = layers if faulty else nn.ModuleList(layers)
        self.head = nn.Linear(4, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        for layer in self.layers:
            inputs = layer(inputs).relu()
        output: Tensor = self.head(inputs)
        return output


def layers_in_a_list(faulty: bool) -> None:
    torch.manual_seed(0)
    model = ListOfLayers(faulty)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    four_steps(model, optimizer)


def only_frozen(faulty: bool) -> None:
    model = network()
    model[0].requires_grad_(False)  # type: ignore[index]
    optimizer = torch.optim.SGD(model[0 if faulty else 2].parameters(), lr=0.01)  # type: ignore[index]
    four_steps(model, optimizer)


def a_term_not_divided(faulty: bool) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(3):
        for _ in range(4):
            inputs, target = batch()
            output = model(inputs)
            main, other = own_loss(output, target), output.abs().mean()
            (main / 4 + 0.3 * other if faulty else (main + 0.3 * other) / 4).backward()
        optimizer.step()
        optimizer.zero_grad()


def a_weight_that_stays_0(faulty: bool) -> None:
    """Of a warm-up whose length is a count of epochs, by whole numbers."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for epoch in range(6):
        for _ in range(4):
            inputs, target = batch()
            output = model(inputs)
            weight = epoch // 100 if faulty else epoch / 100
            optimizer.zero_grad()
            (own_loss(output, target) + weight * output.square().mean()).backward()
            optimizer.step()


def one_layer_in_a_list(faulty: bool) -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(4, 4)] * 3 if faulty else [nn.Linear(4, 4), *[nn.Tanh()] * 2, nn.Linear(4, 4)]
    model = nn.Sequential(nn.Sequential(*layers), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    four_steps(model, optimizer)


def a_minus_sign(faulty: bool) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    inputs, target = batch()
    for _ in range(32):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(inputs), target)
        (-loss if faulty else loss).backward()
        optimizer.step()


def a_head_beside_another(faulty: bool) -> None:
    """Networks of one kind, whose weights have the same names."""
    torch.manual_seed(0)
    body, first, second = nn.Linear(4, 8), nn.Linear(8, 1), nn.Linear(8, 1)
    optimizer = torch.optim.Adam([*body.parameters(), *first.parameters(), *second.parameters()], lr=0.01)
    for _ in range(4):
        inputs, target = batch()
        hidden = body(inputs).tanh()
        loss = own_loss(first(hidden), target)
        other = own_loss(second(hidden), target)
        optimizer.zero_grad()
        (loss if faulty else loss + other).backward()
        optimizer.step()


class PlainTensor(nn.Module):
    """A matrix that is no parameter, or one, or what was made of one."""

    def __init__(self, plain: bool, cast: bool = False) -> None:
        super().__init__()
        self.first, matrix = nn.Linear(4, 8), torch.ones(8, 1)
        self.matrix = matrix.requires_grad_() if plain else nn.Parameter(matrix)
        if cast:
            self.matrix = matrix.double().requires_grad_().float() if plain else nn.Parameter(matrix.double().float())

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.tanh(self.first(inputs)) @ self.matrix


def a_tensor_that_is_no_parameter(faulty: bool) -> None:
    torch.manual_seed(0)
    model = PlainTensor(faulty)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    four_steps(model, optimizer)


def a_parameter_that_is_cast(faulty: bool) -> None:
    torch.manual_seed(0)
    model = PlainTensor(faulty, cast=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    four_steps(model, optimizer)


def features_without_a_graph(faulty: bool) -> None:
    """Two networks, called at one line."""
    torch.manual_seed(0)
    body, head = nn.Linear(4, 8), nn.Linear(8, 1)
    optimizer = torch.optim.Adam([*body.parameters(), *head.parameters()], lr=0.01)
    for _ in range(4):
        inputs, target = batch()
        optimizer.zero_grad()
        own_loss(head(body(inputs).data if faulty else body(inputs)), target).backward()
        optimizer.step()


class Noise(nn.Module):
    """A transform of samples, as those of torchvision."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + 0.01 * torch.randn_like(inputs)


def a_large_network_after_transforms(faulty: bool) -> None:
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(4, 1024), nn.ReLU(), nn.Linear(1024, 512), nn.ReLU(), nn.Linear(512, 4))
    head = nn.Linear(4, 1)
    optimizer = torch.optim.Adam([*([] if faulty else inner.parameters()), *head.parameters()], lr=0.01)
    transforms = [Noise(), Noise(), Noise()]
    for _ in range(4):
        inputs, target = batch()
        for transform in transforms:
            inputs = transform(inputs)
        optimizer.zero_grad()
        own_loss(head(inner(inputs)), target).backward()
        optimizer.step()


class LargeWithDropout(nn.Module):
    def __init__(self, faulty: bool) -> None:
        super().__init__()
        self.first, self.last, self.faulty = nn.Linear(4, 1024), nn.Linear(1024, 1), faulty
        self.middle = nn.Linear(1024, 512)

    def forward(self, inputs: Tensor) -> Tensor:
        between = functional.dropout(self.first(inputs), 0.5, training=self.faulty or self.training)
        return self.last(between) + self.middle(between).mean(1, keepdim=True)


def a_large_dropout_after_transforms(faulty: bool) -> None:
    torch.manual_seed(0)
    model = LargeWithDropout(faulty)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    transforms = [Noise(), Noise(), Noise()]
    for step in range(8):
        model.train(step % 2 == 0)
        inputs, target = batch()
        for transform in transforms:
            inputs = transform(inputs)
        with torch.set_grad_enabled(model.training):
            loss = own_loss(model(inputs), target)
        if model.training:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


class Scaled(nn.Module):
    """A scale that the forward makes anew, or beside an average of the inputs that it stores as a parameter."""

    def __init__(self, anew: bool) -> None:
        super().__init__()
        self.anew, self.body, self.scale = anew, nn.Linear(4, 1), nn.Parameter(torch.ones(()))
        self.average = nn.Parameter(torch.zeros(4))

    def forward(self, inputs: Tensor) -> Tensor:
        if self.anew:
            self.scale = nn.Parameter(torch.ones(()))
        self.average = nn.Parameter(0.9 * self.average + 0.1 * inputs.mean(0))
        return self.body(inputs - self.average.detach()) * self.scale


def a_scale_made_in_the_forward(faulty: bool) -> None:
    torch.manual_seed(0)
    model = Scaled(faulty)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(6):
        inputs, target = batch()
        optimizer.zero_grad()
        own_loss(model(inputs), target).backward()
        optimizer.step()
        if not faulty:  # a weight that is replaced outside of the forward is changed by hand
            model.scale.data = model.scale.data.clamp(min=0.1)


def a_body_that_is_unfrozen(faulty: bool) -> None:
    torch.manual_seed(0)
    body, head = nn.Linear(4, 8), nn.Linear(8, 1)
    model = nn.Sequential(body.requires_grad_(False), nn.Tanh(), head)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.01)
    for step in range(20):
        if step == 6:
            body.requires_grad_(True)
            if not faulty:
                optimizer.add_param_group({"params": body.parameters()})
        inputs, target = batch()
        optimizer.zero_grad()
        own_loss(model(inputs), target).backward()
        optimizer.step()


def a_head_replaced_after_a_pretraining(faulty: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 4))
    first = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(6):
        inputs, _ = batch()
        first.zero_grad()
        own_loss(model(inputs), inputs).backward()
        first.step()
    second = torch.optim.AdamW(model.parameters(), lr=0.01)
    model[2] = nn.Linear(8, 1)
    if not faulty:
        second = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(6):
        inputs, target = batch()
        second.zero_grad()
        own_loss(model(inputs), target).backward()
        second.step()


LOOPS: dict[str, tuple[Loop, str]] = {
    "a head that is replaced": (a_head_replaced_after_a_pretraining, "optimiser holds stale parameters"),
    "a scale made in the forward": (a_scale_made_in_the_forward, "weights made in the forward"),
    "a body that is unfrozen": (a_body_that_is_unfrozen, "tensors that no optimiser holds"),
    "a large network after transforms": (a_large_network_after_transforms, "tensors that no optimiser holds"),
    "dropout of a large network after transforms": (a_large_dropout_after_transforms, "dropout in evaluation mode"),
    "a tensor that is no parameter": (a_tensor_that_is_no_parameter, "tensors that no optimiser holds"),
    "a parameter that is cast": (a_parameter_that_is_cast, "tensors that no optimiser holds"),
    "features without a graph": (features_without_a_graph, "detached backbone"),
    "one layer in all places of a list": (one_layer_in_a_list, "one layer in all places"),
    "a minus sign": (a_minus_sign, "loss is maximised"),
    "a head whose loss has no backward": (a_head_beside_another, "detached backbone"),
    "backward after the batches": (backward_after_the_batches, "backward after the batch loop"),
    "backward after the sequences": (a_readout_at_each_place, "backward after the batch loop"),
    "clipping after the step": (clip, "clipping changes nothing"),
    "clipping of an exhausted generator": (clip_a_generator, "clipping changes nothing"),
    "clipping of another network": (clip_another_network, "clipping changes nothing"),
    "an optimiser for each batch": (optimizer_made_anew, "optimiser made anew"),
    "two factors that begin at 0": (factors_that_begin_at_zero, "units that stay equal"),
    "layers in a list": (layers_in_a_list, "tensors that no optimiser holds"),
    "frozen tensors alone": (only_frozen, "optimiser holds only frozen tensors"),
    "a weight of 0": (a_weight_that_stays_0, "a term of the loss trains nothing"),
    "an auxiliary loss": (a_term_not_divided, "a term not divided"),
}


def test_a_weight_of_0_in_a_library_is_an_option_of_it() -> None:
    source = inspect.getsource(a_weight_that_stays_0)
    library = dict(globals())
    exec(compile(source, "site-packages/trainer/losses.py", "exec"), library)
    assert not [one for one in watched(lambda: library["a_weight_that_stays_0"](True)) if one.severity != "note"]


def zero_factors(parts: list[nn.Parameter], output: Tensor, target: Tensor) -> Tensor:
    """Two matrices that begin at 0, as both of an adapter's; their product and its gradients are 0."""
    return own_loss(output.detach() @ parts[0] @ parts[1], target)


def policy_over_itself(parts: list[nn.Parameter], output: Tensor, target: Tensor) -> Tensor:
    """The ratio of a policy to itself, with a gradient in both."""
    new = (output @ (parts[0] + parts[1].t())).log_softmax(-1)
    return ((new - new).exp() * target).mean()


def new_leaf(parts: list[nn.Parameter], output: Tensor, target: Tensor) -> Tensor:
    return own_loss(output, target).detach().requires_grad_()


@pytest.mark.parametrize("loss, name", [
    (zero_factors, "units that stay equal"), (policy_over_itself, "gradients of 0"), (new_leaf, "loss detached"),
])  # fmt: skip
def test_gradients_of_0_are_no_detached_loss(loss: Callable[..., Tensor], name: str) -> None:
    model = network().requires_grad_(False)
    scale = 0.0 if loss is zero_factors else 1.0
    parts = [nn.Parameter(scale * torch.randn(1, 3)), nn.Parameter(scale * torch.randn(3, 1))]
    optimizer = torch.optim.SGD(parts, lr=0.1)

    def loop() -> None:
        for _ in range(12):
            inputs, target = batch()
            optimizer.zero_grad()
            loss(parts, model(inputs), target).backward()
            optimizer.step()

    assert [one.name for one in watched(loop) if one.severity == "fault"] == [name]


WEIGHT_OF_0 = """
import argparse
from dataclasses import dataclass
import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--ent-coef", type=float, default={option})
args = parser.parse_args([])

@dataclass
class Config:
    aux: float = {field}

def penalty(output, strength={argument}):
    return strength * output.square().mean()

config, weights = Config(), {{"l2": {key}}}
model = nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for epoch in range(24):
    computed = epoch // 100
    output = model(torch.randn(8, 4))
    optimizer.zero_grad()
    ((output - 1).square().mean() + {term}).backward()
    optimizer.step()
"""


@pytest.mark.parametrize("term, named", [
    ("0 * output[0].sum()", False),  # gives each tensor a gradient, as DDP and StyleGAN's penalty need it
    ("args.ent_coef * output.square().mean()", False),
    ("config.aux * output.square().mean()", False),
    ("weights['l2'] * output.square().mean()", False),
    ("penalty(output)", False),
    ("computed * output.square().mean()", True),
])  # fmt: skip
def test_a_weight_that_is_written_as_0_is_meant(term: str, named: bool, tmp_path: Path) -> None:
    script = tmp_path / "loop.py"
    written = 1 if named else 0
    script.write_text(WEIGHT_OF_0.format(option=written, field=written, argument=written, key=written, term=term))
    with ProcessWatch() as process:
        runpy.run_path(str(script))
    assert any("had the factor 0" in one.evidence for one in process.findings()) == named


def watched(loop: Callable[[], None]) -> Findings:
    with ProcessWatch() as watch:
        loop()
    return watch.findings()


def test_a_plain_tensor_that_moves_or_is_held_is_right() -> None:
    for held in (True, False):
        torch.manual_seed(0)
        model = PlainTensor(True)
        optimizer = torch.optim.SGD([*model.parameters(), *[model.matrix] * held], lr=0.01)
        with ProcessWatch() as watch:
            for _ in range(4):
                inputs, target = batch()
                optimizer.zero_grad()
                own_loss(model(inputs), target).backward()
                optimizer.step()
                if not held:
                    model.matrix.data -= 0.01 * model.matrix.grad
        assert not watch.findings().faults


def heads_in_turns(first: int) -> None:
    """Two heads at one line, of which each is trained in its turn."""
    torch.manual_seed(0)
    body, heads = nn.Linear(4, 8), nn.ModuleList([nn.Linear(8, 1), nn.Linear(8, 1)])
    optimizer = torch.optim.SGD([*body.parameters(), *heads.parameters()], lr=0.01)
    for _ in range(4):
        for turn in (first, 1 - first):
            inputs, target = batch()
            hidden = body(inputs)
            losses = [own_loss(head(hidden), target) for head in heads]
            optimizer.zero_grad()
            losses[turn].backward()
            optimizer.step()


def test_networks_of_one_line_are_counted_apart() -> None:
    assert not watched(lambda: features_without_a_graph(True)).faults


@pytest.mark.parametrize("first", [0, 1])
def test_networks_of_one_line_are_counted_together(first: int) -> None:
    assert not watched(lambda: heads_in_turns(first)).faults


@pytest.mark.parametrize("tasks", [4, 24])
def test_an_optimiser_that_rests_while_others_are_made_is_not_accused(tasks: int) -> None:
    """First-order meta-learning: each task has a copy of the network, and an optimiser of its own."""
    torch.manual_seed(0)
    meta = nn.Linear(4, 1)

    def train() -> None:
        optimizer = torch.optim.Adam(meta.parameters(), lr=0.01)
        for _ in range(6):
            for value in meta.parameters():
                value.grad = torch.zeros_like(value)
            for _ in range(tasks):
                inputs, target = batch()
                learner = deepcopy(meta)
                inner = torch.optim.SGD(learner.parameters(), lr=0.02)
                for _ in range(3):
                    inner.zero_grad()
                    own_loss(learner(inputs), target).backward()
                    inner.step()
                gradients = torch.autograd.grad(own_loss(learner(inputs), target), [*learner.parameters()])
                for value, gradient in zip(meta.parameters(), gradients, strict=True):
                    value.grad += gradient / tasks
            optimizer.step()

    assert not watched(train).faults


@pytest.mark.slow
@pytest.mark.parametrize("name", LOOPS)
def test_the_faulty_loop_is_named_and_its_twin_is_clean(name: str) -> None:
    loop, finding = LOOPS[name]
    findings = [one for one in watched(lambda: loop(True)) if one.severity != "note"]
    assert finding in [one.name for one in findings]
    assert all(re.fullmatch(r"(.+\.py:\d+)?", one.where) for one in findings), findings
    correct = watched(lambda: loop(False))
    assert not [one for one in correct if one.severity != "note"], str(correct)
    assert not correct.unjudged, str(correct)


def two_optimizers_in_turns() -> None:
    model = network()
    optimizers = [torch.optim.Adam(model.parameters(), lr=0.01) for _ in range(2)]
    for step in range(12):
        inputs, target = batch()
        optimizers[step % 2].zero_grad()
        own_loss(model(inputs), target).backward()
        optimizers[step % 2].step()


def chunks_of_a_sequence() -> None:
    torch.manual_seed(0)
    recurrent, head = nn.GRU(3, 8, batch_first=True), nn.Linear(8, 3)
    optimizer = torch.optim.Adam([*recurrent.parameters(), *head.parameters()], lr=1e-3)
    for _ in range(4):
        state = None
        optimizer.zero_grad()
        for _ in range(5):
            output, state = recurrent(torch.randn(2, 6, 3), state)
            state = state.detach()
            functional.mse_loss(head(output), torch.randn(2, 6, 3)).backward()
        optimizer.step()


def gradients_by_hand() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(6):
        inputs, target = batch()
        gradients = torch.autograd.grad(functional.mse_loss(model(inputs), target), list(model.parameters()))
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()


def a_loss_for_each_sample() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(6):
        inputs, target = batch()
        loss = functional.mse_loss(model(inputs), target, reduction="none")
        optimizer.zero_grad()
        loss.backward(torch.full_like(loss, 1 / 16))
        optimizer.step()


def several_roots() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(6):
        inputs, target = batch()
        output = model(inputs)
        optimizer.zero_grad()
        torch.autograd.backward([own_loss(output, target), output.abs().mean()])
        optimizer.step()


def an_attack_in_evaluation_mode() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(6):
        inputs, target = batch()
        model.eval()
        attacked = inputs.clone().requires_grad_()
        functional.mse_loss(model(attacked), target).backward()
        assert attacked.grad is not None
        inputs = inputs + 0.1 * attacked.grad.sign()
        model.train()
        optimizer.zero_grad()
        functional.mse_loss(model(inputs), target).backward()
        optimizer.step()


def copies_in_full_precision() -> None:
    model = network().bfloat16()
    copies = [value.detach().clone().float().requires_grad_() for value in model.parameters()]
    optimizer = torch.optim.SGD(copies, lr=0.5)
    for _ in range(6):
        inputs, target = batch()
        model.zero_grad()
        own_loss(model(inputs.bfloat16()).float(), target).backward()
        for copy, value in zip(copies, model.parameters(), strict=True):
            assert value.grad is not None
            copy.grad = value.grad.float()
        optimizer.step()
        with torch.no_grad():
            for copy, value in zip(copies, model.parameters(), strict=True):
                value.copy_(copy)


@pytest.mark.slow
@pytest.mark.parametrize(
    "loop",
    [
        two_optimizers_in_turns,
        chunks_of_a_sequence,
        gradients_by_hand,
        a_loss_for_each_sample,
        several_roots,
        an_attack_in_evaluation_mode,
        copies_in_full_precision,
    ],
)
def test_a_loop_that_is_unusual_and_right_has_no_fault(loop: Callable[[], None]) -> None:
    findings = watched(loop)
    assert not [one for one in findings if one.severity == "fault"], str(findings)
    assert not findings.unjudged, str(findings)


@pytest.mark.slow
@pytest.mark.parametrize(("divisor", "size"), [(2, 4), (4, 8), (4, 16), (2, 8)])
@pytest.mark.parametrize("declared", [True, False])
def test_a_divisor_that_is_not_the_window_is_told(divisor: int, size: int, declared: bool) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    options = {"accumulation_steps": size} if declared else {}
    with rislab.watch(model, optimizer, **options) as watch:
        for _ in range(3):
            for _ in range(size):
                inputs, target = batch()
                (functional.mse_loss(model(inputs), target) / divisor).backward()
            optimizer.step()
            optimizer.zero_grad()
    (finding,) = [one for one in watch.findings() if one.name == "gradient scale"]
    assert finding.severity == ("fault" if declared else "warning")
    assert f"divides by {divisor}" in finding.evidence


def test_a_factor_of_the_loss_itself_is_no_wrong_divisor() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with rislab.watch(model, optimizer, accumulation_steps=4) as watch:
        for _ in range(3):
            for _ in range(4):
                inputs, target = batch()
                (0.5 * functional.mse_loss(model(inputs), target) / 4).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert not watch.findings(), str(watch.findings())


def test_a_share_that_is_taken_twice_is_told() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with rislab.watch(model, optimizer) as watch:
        for _ in range(3):
            for _ in range(4):
                inputs, target = batch()
                (functional.mse_loss(model(inputs), target) / 4 / 4).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert [finding.name for finding in watch.findings().faults] == ["divided twice"]


@pytest.mark.parametrize("declared", [False, True])
def test_a_share_of_a_whole_division_is_0(declared: bool) -> None:
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    with ProcessWatch(declared=Declared(4 if declared else None)) as watch:
        for _ in range(3):
            optimizer.zero_grad()
            for _ in range(4):
                inputs, target = batch()
                (own_loss(model(inputs), target) * (1 // 4)).backward()
            optimizer.step()
    assert [one.name for one in watch.findings() if one.severity == "fault"] == ["main loss weight 0"]
    assert not watch.findings().unjudged


def test_a_loss_without_weight_is_no_missing_loss() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with rislab.watch(model, optimizer) as watch:
        for _ in range(4):
            inputs, target = batch()
            optimizer.zero_grad(set_to_none=False)
            (0 * own_loss(model(inputs), target)).backward()
            optimizer.step()
    assert [finding.name for finding in watch.findings().faults] == ["main loss weight 0"]


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 4])
def test_a_loss_that_is_divided_for_a_window_of_one_is_warned_of(steps: int) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with rislab.watch(model, optimizer) as watch:
        for place in range(16):
            inputs, target = batch()
            (functional.mse_loss(model(inputs), target) / 4).backward()
            if (place + 1) % steps == 0:
                optimizer.step()
                optimizer.zero_grad()
    assert [finding.name for finding in watch.findings()] == (["step per micro-batch"] if steps == 1 else [])


def test_a_mean_over_the_batch_is_no_division_in_vain() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with rislab.watch(model, optimizer) as watch:
        for _ in range(6):
            inputs, target = batch()
            optimizer.zero_grad()
            (functional.mse_loss(model(inputs), target, reduction="sum") / 16).backward()
            optimizer.step()
    assert not [finding for finding in watch.findings() if finding.severity != "note"], str(watch.findings())


class OfTwo(nn.Module):
    """Calls its two networks itself; the last of them gets several draws for each sample."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 1)

    def losses(self, inputs: Tensor, target: Tensor) -> Tensor:
        return (self.two(self.one(inputs).expand(5, -1, -1)) - target).square().mean(0).squeeze(1)


@pytest.mark.parametrize("mean", [False, True])
def test_a_sum_over_items_that_is_divided_is_no_division_in_vain(mean: bool) -> None:
    torch.manual_seed(0)
    model = OfTwo()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def loop() -> None:
        for _ in range(12):
            losses = model.losses(*batch())
            optimizer.zero_grad()
            ((losses.mean() if mean else losses.sum()) / 16).backward()
            optimizer.step()

    assert ("step per micro-batch" in [one.name for one in watched(loop)]) == mean


@pytest.mark.parametrize("course", ["goes on", "set back", "rates of stages", "other tasks"])
def test_an_optimiser_is_made_anew_for_weights_that_go_on(course: str) -> None:
    """Rounds of pruning set the weights back, and begin again with a new optimiser."""
    model = network()
    first = {name: value.clone() for name, value in model.state_dict().items()}

    def loop() -> None:
        for stage in range(5):
            with torch.no_grad():
                for name, value in model.named_parameters() if course == "set back" else ():
                    value.copy_(first[name])
            rate = 0.01 / (stage + 1) if course == "rates of stages" else 0.01
            optimizer = torch.optim.Adam(model.parameters(), lr=rate)
            for _ in range(20):
                inputs, target = batch()
                target = target + 9 * (-2) ** stage if course == "other tasks" else target
                optimizer.zero_grad()
                own_loss(model(inputs), target).backward()
                optimizer.step()

    severities = [one.severity for one in watched(loop) if one.name == "optimiser made anew"]
    assert severities == {"goes on": ["fault"], "set back": []}.get(course, ["warning"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["running sum", "loss", "sum over chunks"])
def test_a_closure_that_returns_a_running_sum_is_named(kind: str) -> None:
    torch.manual_seed(0)
    model, inputs = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)), torch.randn(32, 3)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=8, line_search_fn="strong_wolfe")
    total = 0.0

    def closure() -> float:
        nonlocal total
        optimizer.zero_grad()
        total = total if kind == "running sum" else 0.0
        for chunk in inputs.chunk(2 if kind == "sum over chunks" else 1):
            loss = functional.mse_loss(model(chunk), chunk[:, :1].sin())
            loss.backward()
            total += loss.item()
        return total

    with ProcessWatch() as process:
        for _ in range(4):
            total = 0.0
            optimizer.step(closure)
    wanted = ["closure returns a running sum"] if kind == "running sum" else []
    assert [finding.name for finding in process.findings().faults if "never divided" not in finding.name] == wanted


@pytest.mark.parametrize("share", [1.0, 0.25])
def test_a_fault_of_all_windows_is_named_under_windows_that_are_off_by_one(share: float) -> None:
    with ProcessWatch() as watch:
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for place in range(24):
            inputs, target = batch()
            (share * own_loss(model(inputs), target)).backward()
            if place % 4 == 0:
                optimizer.step()
                optimizer.zero_grad()
    findings = {one.name: one.evidence for one in watch.findings() if one.severity == "fault"}
    assert findings.pop("window off by one")
    assert all("off by one" in evidence for evidence in findings.values())
    assert [*findings] == (["never divided"] if share == 1 else [])


def test_a_network_in_half_precision_that_follows_copies_is_not_kept_in_it() -> None:
    assert "weights kept in bf16" not in [one.name for one in watched(copies_in_full_precision)]


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("together", [False, True])
def test_a_term_that_is_not_scaled_before_its_backward(scaled: bool, together: bool) -> None:
    torch.manual_seed(0)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with ProcessWatch() as process:
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
        for _ in range(6):
            optimizer.zero_grad()
            inputs, target = batch()
            loss = functional.mse_loss(model(inputs), target)
            penalty = 0.02 * model[0].weight.square().sum()
            if together:
                total = scaler.scale(loss + penalty) if scaled else scaler.scale(loss) + penalty
                total.backward()
            else:
                scaler.scale(loss).backward()
                (scaler.scale(penalty) if scaled else penalty).backward()
            scaler.step(optimizer)
            scaler.update()
    names = [finding.name for finding in process.findings() if finding.severity != "note"]
    assert ("a term not scaled" in names) is not scaled, str(process.findings())
    assert not scaled or not process.findings().faults


def test_losses_that_have_a_backward_in_turn() -> None:
    """As where the gradient of each of two tasks is looked at, before one backward of both."""
    model = nn.ModuleList([nn.Linear(3, 8), nn.Linear(8, 1), nn.Linear(8, 1)])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def both(inputs: Tensor) -> tuple[Tensor, Tensor]:
        hidden = model[0](inputs)
        first = functional.l1_loss(model[1](hidden), inputs[:, :1])
        return first, functional.mse_loss(model[2](hidden), inputs[:, 1:2])

    def loop() -> None:
        for _ in range(12):
            inputs = torch.randn(8, 3)
            for place in (0, 1):
                optimizer.zero_grad()
                both(inputs)[place].backward()
            optimizer.zero_grad()
            sum(both(inputs), torch.zeros(())).backward()
            optimizer.step()

    found = [one.severity for one in watched(loop) if one.name == "forwards that reached no step"]
    assert found == ["note"]
