"""What a step's gradient is held against where losses are computed in the network, and where a library makes it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from types import FunctionType

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from rislab.checkup.findings import Findings
from rislab.checkup.loop_watch import watch
from rislab.checkup.process_watch import ProcessWatch
from rislab.checkup.recording.windows import Declared

K = 4
Steps = Callable[[torch.optim.Optimizer, int], None]


def noisy_step(optimizer: torch.optim.Optimizer, batches: int) -> None:
    """Noise on what the window left, and a step."""
    for group in optimizer.param_groups:
        for value in group["params"]:
            value.grad = value.grad / batches + torch.randn_like(value)
    optimizer.step()


def of_a_library(function: Steps) -> Steps:
    """The same function, as if it stood in the folder in which libraries are installed."""
    assert isinstance(function, FunctionType)
    name = str(Path(torch.__file__).parent.parent / "private" / "step.py")
    changed = function.__code__.replace(co_filename=name)
    return functools.wraps(function)(FunctionType(changed, globals()))


def watched(step: Steps, sizes: list[int], scale: float = 1.0, zeroed: bool = False) -> Findings:
    """Findings on windows of some sizes, each micro-batch weighed by `scale`, and zeroed before if so asked."""
    torch.manual_seed(0)
    model = nn.Linear(5, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with ProcessWatch() as process:
        for size in sizes:
            for _ in range(size):
                if zeroed:
                    optimizer.zero_grad()
                (scale * functional.mse_loss(model(torch.randn(6, 5)), torch.ones(6, 1))).backward()
            step(optimizer, size)
            optimizer.zero_grad()
    return process.findings()


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [[1] * 6, [K] * 6, [K, K, K + 1, K, K - 1, K]])
def test_gradients_that_a_library_makes_are_a_note(sizes: list[int]) -> None:
    findings = watched(of_a_library(noisy_step), sizes)
    assert [(finding.severity, finding.name) for finding in findings] == [("note", "gradient changed by hand")]


def slightly_noisy_step(optimizer: torch.optim.Optimizer, batches: int) -> None:
    """A little noise on what one backward left, and a step."""
    for group in optimizer.param_groups:
        for value in group["params"]:
            value.grad += 1e-3 * value.grad.norm() * torch.randn_like(value)
    optimizer.step()


@pytest.mark.parametrize(("first", "severity"), [(8, "note"), (16, "warning")])
def test_gradients_that_the_loop_changes_at_times_are_a_note(first: int, severity: str) -> None:
    steps = iter(range(24))

    def step(optimizer: torch.optim.Optimizer, batches: int) -> None:
        if next(steps) < first:
            noisy_step(optimizer, batches)
        else:
            optimizer.step()

    findings = watched(step, [1] * 24)
    assert [(finding.severity, finding.name) for finding in findings] == [(severity, "gradient changed by hand")]


@pytest.mark.parametrize(("step", "severity"), [(noisy_step, "warning"), (slightly_noisy_step, "note")])
def test_gradients_that_the_loop_changes_are_told(step: Steps, severity: str) -> None:
    findings = watched(step, [1] * 6)
    assert [(finding.severity, finding.name) for finding in findings] == [(severity, "gradient changed by hand")]


def plain_step(optimizer: torch.optim.Optimizer, batches: int) -> None:
    """A step, and nothing else."""
    optimizer.step()


@pytest.mark.slow
def test_a_library_that_only_steps_is_judged_as_the_loop_itself() -> None:
    assert watched(of_a_library(plain_step), [K] * 6, 1 / K) == []
    assert [finding.name for finding in watched(of_a_library(plain_step), [K] * 6).faults] == ["never divided"]
    again = watched(of_a_library(plain_step), [K] * 6, 1 / K, zeroed=True)
    assert [finding.name for finding in again.faults] == ["zeroed per micro-batch"]


@pytest.mark.slow
@pytest.mark.parametrize("divided", [True, False])
def test_windows_of_many_sizes_are_right_if_each_is_one_mean(divided: bool) -> None:
    torch.manual_seed(0)
    model = nn.Linear(5, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with ProcessWatch() as process:
        for size in (4, 4, 5, 4, 3, 4, 4):
            for _ in range(size):
                share = size if divided else K
                (functional.mse_loss(model(torch.randn(6, 5)), torch.ones(6, 1)) / share).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert bool(process.findings()) is not divided


class WithLoss(nn.Module):
    """A network that computes its loss itself."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return functional.multi_margin_loss(self.layer(x), x[:, :3].argmax(1))


def test_samples_of_a_loss_within_the_forward_are_those_of_its_own_inputs() -> None:
    torch.manual_seed(0)
    model, sizes = WithLoss(), (2, 5, 9, 12)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with ProcessWatch() as process:
        for _ in range(5):
            for size in sizes:
                loss = model(torch.randn(size, 5))
                (loss * size / sum(sizes)).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert process.findings() == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["declared", "of torch", "of the loop"])
def test_sums_over_the_samples_of_a_window_are_right(kind: str) -> None:
    torch.manual_seed(0)
    model, sizes, loss = nn.Linear(5, 3), (2, 5, 9, 12), nn.CrossEntropyLoss(reduction="sum")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with watch(model, optimizer, loss=loss) if kind == "declared" else ProcessWatch() as process:
        for _ in range(5):
            for size in sizes:
                x, target = torch.randn(size, 5), torch.randint(0, 3, (size,))
                output = model(x)
                own = (output - 1).pow(2).sum() if kind == "of the loop" else loss(output, target)
                (own / sum(sizes)).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert process.findings() == []


@pytest.mark.parametrize("unequal", ["tokens", "samples"])
def test_a_mean_for_each_micro_batch_is_a_fault_where_samples_are_unequal(unequal: str) -> None:
    torch.manual_seed(0)
    model = nn.Linear(5, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with ProcessWatch() as process:
        for _ in range(5):
            for size in (2, 5, 9, 12):
                x, target = torch.randn(12, 5), torch.randint(0, 3, (12,))
                target[size:] = -100
                x, target = (x[:size], target[:size]) if unequal == "samples" else (x, target)
                (functional.cross_entropy(model(x), target) / 4).backward()
            optimizer.step()
            optimizer.zero_grad()
    severity = "fault" if unequal == "samples" else "warning"
    assert [(one.severity, one.name) for one in process.findings()] == [(severity, "mean of means in the window")]


def test_sums_that_are_divided_by_what_they_count_after_the_backwards_are_correct() -> None:
    """Token losses: each window is divided by its number of targets, which no loss knows."""
    torch.manual_seed(0)
    model = nn.Linear(5, 7)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with ProcessWatch() as process:
        for _ in range(8):
            targets = [torch.randint(-1, 7, (12,)) for _ in range(K)]
            for target in targets:
                output = model(torch.randn(12, 5))
                functional.cross_entropy(output, target, ignore_index=-1, reduction="sum").backward()
            for value in model.parameters():
                assert value.grad is not None
                value.grad /= sum(int((target >= 0).sum()) for target in targets)
            optimizer.step()
            optimizer.zero_grad()
    assert not process.findings().of("warning")


@pytest.mark.parametrize(
    ("turn", "expected"),
    [
        (lambda i: [i % 2], []),
        (lambda i: [i // 3 % 2], []),
        (lambda i: [0, 1] if i % 4 == 3 else [], ["zeroed per micro-batch"]),
    ],
    ids=["in turn", "in stretches", "both at once"],
)
def test_optimisers_that_take_turns_lose_nothing(turn: Callable[[int], list[int]], expected: list[str]) -> None:
    torch.manual_seed(0)
    halves = nn.Linear(5, 3), nn.Linear(3, 5)
    optimizers = [torch.optim.SGD(half.parameters(), lr=0.1) for half in halves]
    with ProcessWatch(every=1) as watch:
        for i in range(24):
            x = torch.randn(8, 5)
            for optimizer in optimizers:
                optimizer.zero_grad()
            functional.mse_loss(halves[1](halves[0](x)), x).backward()
            for place in turn(i):
                optimizers[place].step()
    assert list(dict.fromkeys(one.name for one in watch.findings() if one.severity != "note")) == expected


@pytest.mark.parametrize("alike", [False, True])
def test_losses_of_two_kinds_on_one_line_are_two_tasks(alike: bool) -> None:
    """Weights of 1/2 and 1 are those of tasks, unless the losses are of one kind."""
    torch.manual_seed(0)
    model = nn.Linear(5, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tasks = [functional.mse_loss] * 2 if alike else [functional.mse_loss, functional.l1_loss]
    with ProcessWatch() as watch:
        for _ in range(6):
            optimizer.zero_grad()
            for weight, task in zip((0.5, 1.0), tasks, strict=True):
                (weight * task(model(torch.randn(8, 5)), torch.randn(8, 3))).backward()
            optimizer.step()
    faults = {one.name for one in watch.findings() if one.severity == "fault"}
    assert faults == ({"divided on the first batch only"} if alike else set())


def test_two_losses_on_one_line_are_terms_of_one() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with ProcessWatch() as process:
        for _ in range(6):
            optimizer.zero_grad()
            real, made = torch.randn(8, 3) + 1, torch.randn(8, 3)
            first, second = functional.softplus(-model(real)).mean(), functional.softplus(model(made)).mean()
            first.backward(), second.backward()  # type: ignore[func-returns-value]
            optimizer.step()
    assert not [finding for finding in process.findings() if finding.severity != "note"], str(process.findings())


def learn(model: nn.Module, inputs: Tensor, label: float) -> None:
    """A loss and its backward, in a function of its own."""
    functional.binary_cross_entropy_with_logits(model(inputs), torch.full((len(inputs), 1), label)).backward()


@pytest.mark.parametrize("kind", ["tuple", "zip", "name", "items", "one line", "one forward", "chunks"])
def test_losses_of_a_loop_over_values_that_are_written_out_are_terms_of_one(kind: str) -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with ProcessWatch() as process:
        for _ in range(6):
            optimizer.zero_grad()
            real, made = torch.randn(8, 3) + 1, torch.randn(8, 3)
            pairs = ((real, 1.0), (made, 0.0))
            by_label = {1.0: real, 0.0: made}
            if kind == "tuple":
                for inputs, label in ((real, 1.0), (made, 0.0)):
                    learn(model, inputs, label)
            elif kind == "zip":
                for inputs, label in zip([real, made], [1.0, 0.0], strict=True):
                    learn(model, inputs, label)
            elif kind == "name":
                for inputs, label in pairs:
                    learn(model, inputs, label)
            elif kind == "items":
                for label, inputs in by_label.items():
                    learn(model, inputs, label)
            elif kind == "one line":
                learn(model, real, 1.0), learn(model, made, 0.0)  # type: ignore[func-returns-value]
            elif kind == "one forward":
                output = model(real)
                for label in torch.eye(2):
                    functional.mse_loss(output, label[:1].expand(8, 1)).backward(retain_graph=True)
            else:
                for chunk in torch.cat([real, made]).chunk(2):
                    learn(model, chunk, 1.0)
            optimizer.step()
    names = [finding.name for finding in process.findings() if finding.severity != "note"]
    assert names == (["never divided"] if kind == "chunks" else [])


def test_a_written_loop_around_the_steps_divides_nothing() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with ProcessWatch() as process:
        for part in ("first", "second"):
            for place in range(8):
                learn(model, torch.randn(8, 3), float(part == "first"))
                if place % 2:
                    optimizer.step()
                    optimizer.zero_grad()
    assert [finding.name for finding in process.findings().faults] == ["never divided"]


def test_gradients_that_the_loop_puts_together_from_two_backwards_are_no_fault() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with ProcessWatch() as process:
        for _ in range(6):
            output, kept = model(torch.randn(8, 3)), []
            for column in range(2):
                optimizer.zero_grad()
                functional.mse_loss(output[:, column], torch.ones(8)).backward(retain_graph=True)
                kept.append([value.grad.clone() for value in model.parameters() if value.grad is not None])
            for value, first, second in zip(model.parameters(), *kept, strict=True):
                value.grad = first + second.sign() * first.norm()
            optimizer.step()
    assert not process.findings().faults, str(process.findings())


def test_gradients_that_are_zeroed_before_the_step_are_one_fault() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    with ProcessWatch() as process:
        for _ in range(8):
            functional.mse_loss(model(torch.randn(8, 3)), torch.ones(8, 1)).backward()
            optimizer.zero_grad(set_to_none=False)
            optimizer.step()
    assert [finding.name for finding in process.findings() if finding.severity != "note"] == ["zeroed before the step"]


def test_windows_of_so_many_tokens_each_leave_nothing_over() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    tokens = 0
    with ProcessWatch() as process:
        for size in [8, 8, 12, 8, 8, 8, 4, 8, 12] * 6:
            target = torch.randint(0, 4, (size,))
            functional.cross_entropy(model(torch.randn(size, 3)), target, reduction="sum").backward()
            tokens += size
            if tokens >= 24:
                for value in model.parameters():
                    assert value.grad is not None
                    value.grad /= tokens
                optimizer.step()
                optimizer.zero_grad()
                tokens = 0
    assert not process.findings().faults, str(process.findings())


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.75, 0.25])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_clipping_by_value_is_no_wrong_scale(dtype: torch.dtype, share: float) -> None:
    """A share of 3/4 is the loss of a window, too small by a quarter, which bfloat16 tells from numbers cut off."""

    def found(cut: bool) -> list[str]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 32), nn.Tanh(), nn.Linear(32, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        with ProcessWatch(declared=Declared(K, "")) as process:
            for _ in range(6):
                for _ in range(K):
                    with torch.autocast("cpu", dtype=dtype, enabled=dtype is torch.bfloat16):
                        output = model(torch.randn(6, 5))
                    (functional.mse_loss(output.float(), torch.ones(6, 1)) / K).backward()
                gradients = [value.grad for value in model.parameters()]
                if cut:
                    largest = max(float(gradient.abs().max()) for gradient in gradients)
                    nn.utils.clip_grad_value_(model.parameters(), share * largest)
                for gradient in () if cut else gradients:
                    gradient *= share
                optimizer.step()
                optimizer.zero_grad()
        return [finding.name for finding in process.findings()]

    assert found(True) == ["clipping assumed"]
    assert found(False) == [{0.75: "gradient scale", 0.25: "divided twice"}[share]]


TERMS: dict[str, tuple[int, Callable[[Tensor, Tensor, int], Tensor], list[str]]] = {
    "one divided": (4, lambda main, other, place: main / 4 + 0.3 * other, ["fault"]),
    "both divided": (4, lambda main, other, place: (main + 0.3 * other) / 4, []),
    "a weight of 1/K": (4, lambda main, other, place: 0.25 * main + other, ["warning"]),
    "half a square": (2, lambda main, other, place: main / 2 + other, ["warning"]),
    "one of them once a window": (4, lambda main, other, place: main / 4 + (place == 3) * other, ["warning"]),
}


@pytest.mark.parametrize("kind", TERMS)
def test_a_term_that_is_not_divided_in_any_window_is_a_fault(kind: str) -> None:
    size, total, expected = TERMS[kind]
    torch.manual_seed(0)
    model = nn.Linear(5, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with ProcessWatch() as process:
        for _ in range(6):
            for place in range(size):
                output = model(torch.randn(6, 5))
                main, other = functional.mse_loss(output, torch.ones(6, 1)), output.abs().mean()
                total(main, other, place).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert [one.severity for one in process.findings() if one.name == "a term not divided"] == expected


@pytest.mark.parametrize("how", ["mean", "without what they do to each other", "against them"])
@pytest.mark.parametrize("lines", [1, 2])
def test_gradients_of_tasks_that_the_loop_puts_together_are_a_note(how: str, lines: int) -> None:
    """They are zeroed one by one, and kept; a step against all of them is no such thing."""
    torch.manual_seed(0)
    trunk, heads = nn.Linear(5, 6), [nn.Linear(6, 1), nn.Linear(6, 1)]
    values = [value for one in (trunk, *heads) for value in one.parameters()]
    optimizer = torch.optim.SGD(values, lr=0.01)

    def kept(loss: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss.backward(retain_graph=True)
        return torch.cat([torch.zeros(one.numel()) if one.grad is None else one.grad.flatten() for one in values])

    with ProcessWatch() as process:
        for _ in range(12):
            inputs = torch.randn(8, 5)
            hidden = trunk(inputs).tanh()
            losses = [
                functional.mse_loss(head(hidden), sign * inputs[:, :1])
                for head, sign in zip(heads, (1, -1), strict=True)
            ]
            if lines == 2:
                first = kept(losses[0])
                second = kept(losses[1])
            else:
                first, second = (kept(loss) for loss in losses)
            if how == "without what they do to each other" and (product := first @ second) < 0:
                first, second = (
                    first - product / second.square().sum() * second,
                    second - product / (first.square().sum()) * first,
                )
            given = (first + second) / (2 if how == "mean" else -1 if how == "against them" else 1)
            place = 0
            for one in values:
                one.grad = given[place : place + one.numel()].view_as(one)
                place += one.numel()
            optimizer.step()
    findings = [(one.severity, one.name) for one in process.findings()]
    assert (findings == [("note", "gradient changed by hand")]) == (how != "against them"), findings


@pytest.mark.parametrize("sizes", [(6, 6, 6, 2), (6, 2, 6, 2)])
def test_a_last_micro_batch_that_is_smaller_is_a_warning(sizes: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = nn.Linear(5, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with ProcessWatch(declared=Declared(accumulation_steps=K, mean="")) as process:
        for window in ((6,) * K, sizes) * 3:
            for size in window:
                (functional.mse_loss(model(torch.randn(size, 5)), torch.ones(size, 1)) / K).backward()
            optimizer.step()
            optimizer.zero_grad()
    found = [(one.severity, one.name) for one in process.findings()]
    assert found == [("warning" if sizes[1] == 6 else "fault", "mean of means in the window")]


@pytest.mark.parametrize("divided", [True, False])
def test_two_parts_of_a_network_that_are_called_one_after_the_other_are_no_sequence(divided: bool) -> None:
    torch.manual_seed(0)
    body, head = nn.GRU(3, 6, batch_first=True), nn.Linear(6, 1)
    optimizer = torch.optim.SGD([*body.parameters(), *head.parameters()], lr=0.01)
    with ProcessWatch() as process:
        for number in range(1, 6 * K + 1):
            inputs = torch.randn(8, 4, 3)
            loss = functional.mse_loss(head(body(inputs)[1][0]), inputs[:, -1, :1])
            (loss / K if divided else loss).backward()
            if number % K == 0:
                optimizer.step()
                optimizer.zero_grad()
    assert [one.name for one in process.findings()] == ([] if divided else ["never divided"])


@pytest.mark.parametrize("how", ["a mask", "no mean", "no part along another", "half of some", "turned"])
def test_a_part_that_is_taken_out_of_gradients_is_a_note(how: str) -> None:
    """As of weights that are pruned, rows that stay, or centred gradients; other changes are told."""
    torch.manual_seed(0)
    model = nn.Linear(5, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    mask, other = (torch.rand(4, 5) > 0.4).float(), torch.randn(4, 5)
    with ProcessWatch() as process:
        for _ in range(8):
            optimizer.zero_grad()
            functional.mse_loss(model(torch.randn(6, 5)), torch.ones(6, 4)).backward()
            given = model.weight.grad
            assert given is not None
            if how == "a mask":
                given *= mask
            elif how == "no mean":
                given -= given.mean(1, keepdim=True)
            elif how == "no part along another":
                given -= (given * other).sum() / other.square().sum() * other
            elif how == "half of some":
                given *= 0.5 + 0.5 * mask
            else:
                model.weight.grad = given.flip(0)
            optimizer.step()
    found = [(one.severity, one.name) for one in process.findings()]
    told = "warning" if how in ("half of some", "turned") else "note"
    assert found == [(told, "gradient changed by hand")]
