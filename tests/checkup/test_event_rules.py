"""Windows of a size that was not declared, and what is left at the end of an epoch or of the run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import rislab
from rislab.checkup.findings import Finding
from rislab.checkup.process_watch import ProcessWatch
from rislab.checkup.script import run_script


def trained(*, size: int, declared: int, batches: int, epochs: int, zero_each_epoch: bool = False) -> list[Finding]:
    """What `watch` says of a loop that counts its micro-batches over the epochs, and steps after each `size`."""
    torch.manual_seed(0)
    model = nn.Linear(6, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    count = 0
    with rislab.watch(model, optimizer, accumulation_steps=declared, epochs=epochs) as watch:
        for _ in range(epochs):
            if zero_each_epoch:
                optimizer.zero_grad()
            for _ in range(batches):
                x = torch.randn(4, 6)
                (functional.mse_loss(model(x), x[:, :1]) / size).backward()
                count += 1
                if count % size == 0:
                    optimizer.step()
                    optimizer.zero_grad()
    return [finding for finding in watch.findings() if finding.severity != "note"]


def test_windows_that_go_on_over_the_epochs_are_correct() -> None:
    assert not trained(size=4, declared=4, batches=6, epochs=4)


def test_what_is_left_after_whole_windows_over_several_epochs_is_a_warning() -> None:
    (finding,) = trained(size=4, declared=4, batches=5, epochs=3)
    assert (finding.name, finding.severity) == ("tail never stepped", "warning")


def test_what_is_left_after_one_epoch_is_a_fault() -> None:
    (finding,) = trained(size=4, declared=4, batches=11, epochs=1)
    assert (finding.name, finding.severity) == ("tail never stepped", "fault")


def test_left_overs_zeroed_at_the_start_of_an_epoch_are_named() -> None:
    first = trained(size=4, declared=4, batches=6, epochs=4, zero_each_epoch=True)[0]
    assert (first.name, first.severity) == ("tail never stepped", "fault")


@pytest.mark.parametrize("batches,severity", [(8, "fault"), (2, "warning")])
def test_half_windows_throughout_are_named(batches: int, severity: str) -> None:
    # Epochs of two micro-batches end each window early, which may be meant.
    finding = trained(size=2, declared=4, batches=batches, epochs=5)[0]
    assert (finding.name, finding.severity) == ("window size", severity)
    assert "windows of 2, 2, 2" in finding.evidence and finding.fix


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("forwards,names", [(4, []), (1, ["step per micro-batch"])])
def test_sums_of_a_window_may_be_added_up_before_one_backward(forwards: int, names: list[str], every: int) -> None:
    # Four terms of one forward are one micro-batch; those of four forwards are four.
    torch.manual_seed(0)
    model = nn.Linear(6, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with rislab.watch(model, optimizer, accumulation_steps=4, every=every) as watch:
        for _ in range(12):
            optimizer.zero_grad()
            inputs = [torch.randn(8, 6) for _ in range(forwards)] * (4 // forwards)
            outputs = [model(x) for x in inputs[:forwards]] * (4 // forwards)
            losses = [functional.mse_loss(y, x[:, :1], reduction="sum") for x, y in zip(inputs, outputs, strict=True)]
            (sum(losses[1:], losses[0]) / 32).backward()
            optimizer.step()
    assert [finding.name for finding in watch.findings() if finding.severity == "fault"] == names


@pytest.mark.parametrize("critic_first", [True, False])
def test_a_detached_loss_is_named_by_its_line(critic_first: bool, tmp_path: Path) -> None:
    """Of all losses that do not depend on the generator, the last before its step was to lead to it."""
    critic = """
    d_step.zero_grad()
    (loss(critic(torch.randn(16, 4)), ones) + loss(critic(made.detach()), 0 * ones)).backward()
    d_step.step()"""
    text = """
import torch
from torch import nn
torch.manual_seed(0)
generator, critic = nn.Linear(2, 4), nn.Linear(4, 1)
g_step, d_step = (torch.optim.Adam(one.parameters()) for one in (generator, critic))
loss, ones = nn.functional.binary_cross_entropy_with_logits, torch.ones(16, 1)
for _ in range(6):
    made = generator(torch.randn(16, 2))%s
    g_step.zero_grad()
    loss(critic(made.detach()), ones).backward()
    g_step.step()%s
"""
    text %= (critic, "") if critic_first else ("", critic)
    path = tmp_path / "gan.py"
    path.write_text(text)
    (finding,) = [one for one in run_script(path).findings if one.severity == "fault"]
    line = text[: text.index("loss(critic(made.detach()), ones)")].count("\n") + 1
    assert finding.name == "loss detached" and finding.where.endswith(f"gan.py:{line}")


@pytest.mark.parametrize("clipped", [False, True])
def test_a_share_of_the_last_gradient_is_said_in_words(clipped: bool) -> None:
    torch.manual_seed(0)
    model = nn.Linear(6, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with rislab.watch(model, optimizer, accumulation_steps=1) as watch:
        for _ in range(2):
            x = torch.randn(4, 6)
            functional.mse_loss(model(x), x[:, :1]).backward()
            if clipped:
                nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
    first = watch.findings()[0]
    assert first.name == "never zeroed"
    assert first.evidence.endswith("the last step's gradient is in it whole")


@pytest.mark.parametrize("size,frozen,named", [(2, False, True), (1, False, False), (2, True, False)])
def test_layers_that_normalise_over_a_micro_batch_are_noted_where_gradients_accumulate(
    size: int, frozen: bool, named: bool
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    model[1].train(not frozen)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with rislab.watch(model, optimizer, accumulation_steps=size) as watch:
        for count in range(1, 5):
            x = torch.randn(8, 6)
            (functional.mse_loss(model(x), x[:, :1]) / size).backward()
            if count % size == 0:
                optimizer.step()
                optimizer.zero_grad()
    notes = [finding for finding in watch.findings() if finding.name == "batch statistics per micro-batch"]
    assert [note.severity for note in notes] == ["note"] * named
    assert not named or "1 BatchNorm layers are over the 8 samples of a micro-batch" in notes[0].evidence


@pytest.mark.parametrize("held", [False, True])
def test_a_teacher_within_the_network_never_moves_and_is_no_finding(held: bool) -> None:
    network = nn.ModuleDict({"teacher": nn.Linear(6, 2), "student": nn.Linear(6, 2)})
    optimizer = torch.optim.SGD(network.parameters() if held else network["student"].parameters(), lr=0.05)
    with rislab.watch(network, optimizer) as watch:
        x = torch.randn(8, 6)
        functional.mse_loss(network["student"](x), network["teacher"](x).detach()).backward()
        optimizer.step()
    assert [one.severity for one in watch.findings() if one.name == "detached backbone"] == ["warning"] * held


class Stack(nn.Module):
    """Blocks that each give a forecast, and what is left for the next one: the last rest is used by nobody."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"body": nn.Linear(6, 8), "rest": nn.Linear(8, 6), "forecast": nn.Linear(8, 1)})
            for _ in range(3)
        )

    def forward(self, x: Tensor, detached: bool) -> Tensor:
        forecast = x.new_zeros(len(x), 1)
        for place, block in enumerate(self.blocks):
            hidden = block["body"](x).tanh()  # type: ignore[index]
            if place < 2 and detached:
                hidden = hidden.detach()
            x, forecast = x - block["rest"](hidden), forecast + block["forecast"](hidden)  # type: ignore[index]
        return forecast


@pytest.mark.parametrize("detached", [False, True])
def test_a_part_that_only_the_last_block_has_in_vain_is_noted(detached: bool) -> None:
    torch.manual_seed(0)
    model = Stack()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with rislab.watch(model, optimizer) as watch:
        for _ in range(6):
            x = torch.randn(8, 6)
            optimizer.zero_grad()
            functional.mse_loss(model(x, detached), x[:, :1]).backward()
            optimizer.step()
    found = {one.severity: one.evidence for one in watch.findings() if one.name == "detached backbone"}
    assert "no gradient came to blocks.2.rest.weight, blocks.2.rest.bias" in found["note"]
    assert ("blocks.0.body.weight" in found.get("warning", "")) == detached


@pytest.mark.parametrize("shape,severity", [((5, 6), "warning"), ((6,), "note"), ((1, 1, 6), "note")])
def test_a_matrix_that_is_cut_off_is_warned_of_and_a_vector_noted(shape: tuple[int, ...], severity: str) -> None:
    model = nn.Linear(6, 1)
    model.register_parameter("codes", nn.Parameter(torch.randn(shape)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with rislab.watch(model, optimizer) as watch:
        functional.mse_loss(model(torch.randn(8, 6) + model.codes.detach().mean()), torch.randn(8, 1)).backward()
        optimizer.step()
    assert [one.severity for one in watch.findings() if one.name == "detached backbone"] == [severity]


def test_backwards_within_a_compiled_step_are_no_forgotten_ones() -> None:
    """Gradients come, and no backward is heard: what the loop does is not known, so that nothing is said against it."""
    torch.manual_seed(0)
    model = nn.Linear(6, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    @torch.compile(backend="eager")
    def gradients(x: torch.Tensor) -> torch.Tensor:
        loss = functional.mse_loss(model(x), x[:, :1])
        loss.backward()
        return loss.detach()

    with ProcessWatch() as process:
        for _ in range(6):
            optimizer.zero_grad()
            gradients(torch.randn(4, 6))
            optimizer.step()
    assert not process.findings().of("warning")


@pytest.mark.parametrize("evaluated", [False, True])
def test_the_mode_of_a_helper_in_one_list_with_the_network_is_its_own(evaluated: bool) -> None:
    torch.manual_seed(0)
    student, helper = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 1)), nn.Linear(6, 1)
    modules = nn.ModuleList([student, helper])
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05)
    with ProcessWatch() as watch:
        for module in modules:
            module.train(not evaluated)
        helper.eval()
        for _ in range(10):
            x = torch.randn(16, 6)
            answer, other = student(x), helper(x)
            loss = functional.mse_loss(answer, x[:, :1]) + functional.mse_loss(answer, other.detach())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert ("eval never undone" in [finding.name for finding in watch.findings()]) is evaluated
