"""The checkup on a plain loop: every edit of it is named, and nothing is wrong with the loop as it stands."""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import cache
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from torch import Tensor, nn
from torch.nn import functional

import rislab
from rislab.checkup.findings import Findings
from rislab.checkup.loop_watch import Watch
from rislab.errors import InputError
from rislab.faults import catalogue, comparison
from rislab.faults.symptoms import OF_A_TRAINING

# 52 samples in micro-batches of 8 are seven, the last of 4; windows of 3, 3 and 1 of them.
LOOP = """
def train(model, optimizer, compute_loss, data, K, epochs, scaler, scheduler, clip, half):
    reported = []
    for epoch in range(epochs):
        model.train()
        running = 0.0
        for window in windows(data, K):
            total = sum(len(x) for x, y in window)
            optimizer.zero_grad(set_to_none=True)
            for x, y in window:
                with torch.autocast("cpu", dtype=half or torch.bfloat16, enabled=half is not None):
                    loss = compute_loss(model(x), y)
                share = len(x) / total
                scaler.scale(share * loss).backward()
                running += len(x) * loss.item()
            scaler.unscale_(optimizer)
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            before = optimizer.state_dict() and scaler.get_scale()
            scaler.step(optimizer)
            scaler.update()
            if scheduler is not None and scaler.get_scale() >= before:
                scheduler.step()
        reported.append(running / sum(len(x) for x, y in data))
    return reported
"""
REPORT = "running / sum(len(x) for x, y in data)"
BACKWARD = "                scaler.scale(share * loss).backward()\n"
RUNNING = "                running += len(x) * loss.item()\n"
SHARE = "                share = len(x) / total\n"
ZERO = "            optimizer.zero_grad(set_to_none=True)\n"
STEP = "            scaler.step(optimizer)\n            scaler.update()\n"
UNSCALE = "            scaler.unscale_(optimizer)\n"
CLIP = """            if clip is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
"""


def windows(data: list[Any], size: int) -> list[list[Any]]:
    return [data[first : first + size] for first in range(0, len(data), size)]


def network(kind: str = "plain") -> nn.Module:
    torch.manual_seed(0)
    middle: dict[str, list[nn.Module]] = {
        "plain": [nn.Tanh()],
        "dropout": [nn.Tanh(), nn.Dropout(0.5)],
        "batch norm": [nn.BatchNorm1d(16), nn.Tanh()],
    }
    return nn.Sequential(nn.Linear(6, 16), *middle[kind], nn.Linear(16, 3))


def samples(equal: bool = False) -> list[Any]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(48 if equal else 52, 6, generator=generator)
    y = torch.randn(len(x), 3, generator=generator)
    return list(zip(x.split(8), y.split(8), strict=True))


def run_watched(
    *edits: tuple[str, str],
    K: int = 3,
    epochs: int = 3,
    kind: str = "plain",
    optimiser: Callable[..., torch.optim.Optimizer] = torch.optim.SGD,
    loss: Any = None,
    half: torch.dtype | None = None,
    clip: float | None = None,
    schedule: Callable[[int], float] | None = None,
    scaler: Any = None,
    data: list[Any] | None = None,
    prepare: Callable[[nn.Module], None] = lambda model: None,
    watched: bool = True,
    declare_loss: bool = True,
    **declared: Any,
) -> tuple[Findings, nn.Module, list[float]]:
    source = LOOP
    for before, after in edits:
        assert source.count(before) == 1, before
        source = source.replace(before, after)
    space = {"torch": torch, "windows": windows, "math": math}
    exec(compile(source, "loop.py", "exec"), space)
    model, loss = network(kind), nn.MSELoss() if loss is None else loss
    optimizer = optimiser(model.parameters(), lr=0.05)
    prepare(model)
    scheduler = None if schedule is None else torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
    scaler = torch.amp.GradScaler("cpu", enabled=False) if scaler is None else scaler
    data = samples() if data is None else data
    watch = Watch(
        model,
        optimizer,
        loss=loss if declare_loss else None,
        accumulation_steps=K,
        scaler=scaler,
        scheduler=scheduler,
        clip_norm=clip,
        epochs=epochs,
        **declared,
    )
    run = space["train"]
    torch.manual_seed(5)
    if not watched:
        return Findings(), model, run(model, optimizer, loss, data, K, epochs, scaler, scheduler, clip, half)
    intercepted = isinstance(loss, nn.Module) or getattr(loss, "__module__", "").startswith("torch")
    with watch:
        reported = run(
            model, optimizer, loss if intercepted else watch.loss, data, K, epochs, scaler, scheduler, clip, half
        )
    return watch.findings(reported=reported), model, reported


def fp16(**options: Any) -> dict[str, Any]:
    return {"half": torch.float16, "scaler": torch.amp.GradScaler("cpu", **options)}


FAULTS: dict[str, tuple[list[tuple[str, str]], dict[str, Any]]] = {
    "never divided": ([(SHARE, "                share = 1.0\n")], {"data": samples(equal=True)}),
    "divided on the first batch only": (
        [(SHARE, "                share = len(x) / total if x is window[0][0] else 1.0\n")],
        {"data": samples(equal=True)},
    ),
    "divided twice": ([(SHARE, "                share = len(x) / total / K\n")], {}),
    "ragged window divided by K": ([(SHARE, "                share = 1 / K\n")], {"data": samples(equal=True)[:5]}),
    "mean of means in the window": ([(SHARE, "                share = 1 / len(window)\n")], {"K": 4}),
    "zeroed per micro-batch": ([(SHARE, SHARE + "                optimizer.zero_grad()\n")], {}),
    "zeroed before the step": ([(STEP, ZERO.replace("True", "False") + STEP)], {}),
    "never zeroed": ([(ZERO, "")], {"epochs": 1}),
    "step per micro-batch": (
        [(RUNNING, RUNNING + "                optimizer.step()\n"), (STEP, "")], {},
    ),
    "stepped twice": ([(STEP, STEP + "            optimizer.step()\n")], {}),
    "backward after the batch loop": (
        [(BACKWARD + RUNNING, BACKWARD[4:] + RUNNING[4:])], {"data": samples(equal=True)},
    ),
    "loop tail in a branch never taken": ([(BACKWARD + RUNNING, ""), (STEP, "")], {}),
    "step in a branch never taken": ([(STEP, "            if epoch < 0:\n                optimizer.step()\n")], {}),
    "tail never stepped": ([(STEP, "            if len(window) == K:\n                optimizer.step()\n")], {}),
    "left-overs leak": (
        [(ZERO, ""), (STEP, "            if len(window) == K:\n                optimizer.step()\n    " + ZERO)], {},
    ),
    "window off by one": (
        [("for window in windows(data, K):", "for window in [data[:1], *windows(data[1:], K)]:")],
        {"data": samples(equal=True)[:4], "epochs": 1},
    ),
    "accumulated in bf16": (
        [(RUNNING, RUNNING + "                for p in model.parameters():\n"
          "                    p.grad = p.grad.bfloat16().float()\n")], {},
    ),
    "clipped before unscaling": ([(UNSCALE + CLIP, CLIP + UNSCALE)], {"clip": 0.1, **fp16(init_scale=1024.0)}),
    "clipped per micro-batch": ([(RUNNING, RUNNING + CLIP.replace("            ", "                ", 1).replace(
        "                torch", "                    torch")), ], {"clip": 0.1}),
    "scaler bypassed": ([(UNSCALE, ""), (STEP, "            optimizer.step()\n")], fp16(init_scale=1024.0)),
    "learning rate 0 at the first step": ([], {"schedule": lambda tick: min(1.0, max(0, tick - 1) / 4)}),
    "scheduler before the optimiser": (
        [("            scaler.step(optimizer)\n", "            scheduler.step()\n            scaler.step(optimizer)\n"),
         ("                scheduler.step()\n", "                pass\n")],
        {"schedule": lambda tick: 0.9**tick},
    ),
    "scheduler per micro-batch": (
        [(RUNNING, RUNNING + "                scheduler.step()\n"),
         ("                scheduler.step()\n        reported", "                pass\n        reported")],
        {"schedule": lambda tick: 0.9**tick},
    ),
    "eval never undone": ([("        model.train()\n", "        if epoch == 1:\n            model.eval()\n")], {}),
    "loss detached": ([(SHARE, "                loss = loss.detach().requires_grad_()\n" + SHARE)], {}),
    "last over n": (
        [("                running += len(x) * loss.item()\n", ""),
         (f"        reported.append({REPORT})", "        reported.append(loss.item() / len(data))")], {},
    ),
    "only the last micro-batch": ([(f"reported.append({REPORT})", "reported.append(loss.item())")], {}),
    "logged after the division": (
        [(RUNNING, "                running += len(x) * (share * loss).item()\n")], {"data": samples(equal=True)},
    ),
    "mean of unequal means": (
        [(RUNNING, "                running += loss.item()\n"), (REPORT, "running / len(data)")], {},
    ),
    "sum of means over the set's size": ([(RUNNING, "                running += loss.item()\n")], {}),
    "rounded to four digits": ([(REPORT, f"round({REPORT}, 4)")], {}),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named_by_one_of_the_first_two_findings(name: str) -> None:
    edits, options = FAULTS[name]
    findings, _, _ = run_watched(*edits, **options)
    assert findings.faults, str(findings)
    assert any(name == finding.name or name in finding.aliases for finding in findings[:2]), str(findings)


HALVES: dict[str, dict[str, Any]] = {"fp32": {}, "bf16": {"half": torch.bfloat16}, "fp16": {"half": torch.float16}}
OPTIMISERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw fused": lambda parameters, lr: torch.optim.AdamW(parameters, lr=lr, fused=True),
}


def covering(*settings: Sequence[Any], together: int = 3) -> list[tuple[Any, ...]]:
    """Few combinations of settings, in which all that so many of them can be together occur."""
    every = list(itertools.product(*settings))
    if os.environ.get("RISLAB_SOAK"):
        return every

    def parts(case: tuple[Any, ...]) -> set[tuple[tuple[int, Any], ...]]:
        return set(itertools.combinations(enumerate(case), together))

    open_parts, chosen = set().union(*map(parts, every)), []
    while open_parts:
        chosen.append(max(every, key=lambda case: len(parts(case) & open_parts)))
        open_parts -= parts(chosen[-1])
    return chosen


CORRECT = covering(HALVES, (1, 2, 3, 5, 7), OPTIMISERS, (None, 0.1), ("plain", "dropout", "batch norm"))


@pytest.mark.parametrize(
    ("precision", "K", "optimiser", "clip", "kind"), CORRECT, ids=[" ".join(map(str, case)) for case in CORRECT]
)
def test_a_correct_loop_has_no_faults(precision: str, K: int, optimiser: str, clip: float | None, kind: str) -> None:
    options = {**HALVES[precision]}
    if precision == "fp16":
        options["scaler"] = torch.amp.GradScaler("cpu")
    options |= {"K": K, "epochs": 2, "optimiser": OPTIMISERS[optimiser], "clip": clip, "kind": kind}
    findings, _, _ = run_watched(schedule=lambda tick: 0.9**tick, **options)
    assert not findings.faults, str(findings)


@pytest.mark.parametrize("loss", [nn.MSELoss(), functional.mse_loss, lambda x, y: (x - y).square().mean()])
@pytest.mark.parametrize("kind", ["plain", "dropout", "batch norm"])
def test_watching_changes_nothing(loss: Any, kind: str) -> None:
    findings, watched, reported = run_watched(loss=loss, kind=kind)
    _, plain, alone = run_watched(loss=loss, kind=kind, watched=False)
    assert reported == alone
    assert all(
        torch.equal(*pair) for pair in zip(watched.state_dict().values(), plain.state_dict().values(), strict=True)
    )
    assert not findings.faults


def test_all_hooks_are_gone_after_an_exception() -> None:
    model, loss = network(), nn.MSELoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch = rislab.watch(model, optimizer, loss=loss)
    with pytest.raises(ZeroDivisionError), watch:
        loss(model(torch.ones(4, 6)), torch.ones(4, 3)).backward()
        raise ZeroDivisionError
    optimizer.step()
    loss(model(torch.ones(4, 6)), torch.ones(4, 3)).backward()
    assert len(watch.trace.micro_batches) == 1
    assert not watch.trace.steps


def test_the_first_skips_of_a_scaler_are_no_fault() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**30)
    findings, _, _ = run_watched(half=torch.float16, scaler=scaler, epochs=12, schedule=lambda tick: 0.9**tick)
    assert scaler.get_scale() < 2.0**30
    assert not findings.faults, str(findings)


def test_a_schedule_that_runs_over_skipped_steps_is_named() -> None:
    edit = ("            if scheduler is not None and scaler.get_scale() >= before:\n", "            if True:\n")
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**30)
    findings, _, _ = run_watched(edit, half=torch.float16, scaler=scaler, epochs=12, schedule=lambda tick: 0.9**tick)
    assert findings[0].name == "schedule runs over skipped steps", str(findings)


def test_stale_parameters_are_named() -> None:
    def renew(model: nn.Module) -> None:
        for module in model:
            if isinstance(module, nn.Linear):
                module.weight, module.bias = (nn.Parameter(p.detach().clone()) for p in (module.weight, module.bias))

    findings, _, _ = run_watched(prepare=renew)
    assert findings[0].name == "optimiser holds stale parameters", str(findings)


def test_clipping_that_was_not_declared_is_assumed_and_noted() -> None:
    edit = (CLIP, "            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.05)\n")
    findings, _, _ = run_watched(edit)
    assert not findings.faults, str(findings)
    assert [finding.name for finding in findings] == ["clipping assumed"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["zeroed per micro-batch", "zeroed before the step", "never divided", "divided twice"])
def test_without_a_declared_loss_it_follows_what_backward_is_called_on(name: str) -> None:
    edits, options = FAULTS[name]
    findings, _, _ = run_watched(*edits, **{**options, "declare_loss": False, "data": samples(equal=True)})
    assert any(name == finding.name or name in finding.aliases for finding in findings[:2]), str(findings)
    correct, _, _ = run_watched(declare_loss=False)
    assert not correct.faults, str(correct)


def test_without_any_loss_a_note_says_what_is_missing() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with rislab.watch(model, optimizer, loss=nn.MSELoss()) as watch:
        model(torch.ones(2, 6)).sum().backward()
        optimizer.step()
    findings = watch.findings()
    assert not findings.faults
    assert "no loss was intercepted" in findings[0].evidence


def test_steps_on_no_gradient_and_runs_of_nothing_are_named() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with rislab.watch(model, optimizer) as watch:
        optimizer.step()
    assert [finding.name for finding in watch.findings().faults] == ["steps without a forward"]
    with rislab.watch(model, optimizer) as watch:
        pass
    assert [finding.name for finding in watch.findings().faults] == ["nothing was trained"]


def test_a_loss_that_is_divided_in_place_is_still_the_raw_one() -> None:
    edit = (
        "                scaler.scale(share * loss).backward()\n",
        "                raw = loss.item()\n"
        "                loss *= share\n                scaler.scale(loss).backward()\n",
    )
    findings, _, _ = run_watched(edit, ("len(x) * loss.item()", "len(x) * raw"))
    assert not findings, str(findings)


def test_terms_besides_the_declared_loss_are_no_fault() -> None:
    edit = (SHARE, SHARE + "                loss = loss + sum(p.square().sum() for p in model.parameters())\n")
    findings, _, _ = run_watched(edit, (RUNNING, ""), (REPORT, "0.0"))
    assert not [finding for finding in findings.faults if finding.code != "C14"], str(findings)


@pytest.mark.parametrize("zeroed_inside", [True, False])
def test_each_evaluation_of_a_closure_is_judged(zeroed_inside: bool) -> None:
    model, loss = network(), nn.MSELoss()
    optimizer = torch.optim.LBFGS(model.parameters())

    def closure() -> Tensor:
        if zeroed_inside:
            optimizer.zero_grad()
        value: Tensor = loss(model(torch.ones(4, 6)), torch.ones(4, 3))
        value.backward()
        return value

    with rislab.watch(model, optimizer, loss=loss) as watch:
        for _ in range(3):
            optimizer.zero_grad()
            optimizer.step(closure)
    faults = watch.findings().faults
    assert ("never zeroed" in [finding.name for finding in faults]) is not zeroed_inside
    assert not faults or not zeroed_inside
    # The first evaluation of a step counts as its window.
    assert len(watch.trace.taken) == 3 < len(watch.trace.steps)


def test_each_nth_window_is_compared() -> None:
    edits, options = FAULTS["divided twice"]
    findings, _, _ = run_watched(*edits, **options, every=4)
    assert findings[0].name == "divided twice"


@pytest.mark.parametrize(
    ("field", "value"), [("accumulation_steps", 0), ("mean", "tokens"), ("every", 0), ("clip_norm", -1.0), ("loss", 3)]
)
def test_bad_declarations_are_named(field: str, value: Any) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(InputError, match=f"^{field} is "):
        rislab.watch(model, optimizer, **{field: value})


def test_findings_render() -> None:
    edits, options = FAULTS["divided twice"]
    findings, _, _ = run_watched(*edits, **options)
    assert "α = 0.333" in str(findings)
    assert "loop.py:" in findings[0].where
    assert "<table" in findings._repr_html_()
    assert str(Findings()) == "nothing to report"


# What watching a loop cannot show yet: it takes probes of the network, of its data or of its validation.
NOT_SHOWN = {
    "NaN dropped from the record",
    "dropout in training only",
    "validation of the averaged weights only",
}
SHOWN = [fault for fault in catalogue.FAULTS if comparison.shows_in_training(fault) and fault.name not in NOT_SHOWN]


def setting_of(fault: catalogue.Fault) -> dict[str, Any]:
    """The setting of the first sign of a training that names one."""
    return next((dict(s.setting) for s in fault.symptoms if s.quantity in OF_A_TRAINING and s.setting), {})


@cache
def correct_findings(setting: tuple[tuple[str, Any], ...]) -> Findings:
    """What the checkup finds in the correct loop; many faults share a setting."""
    return comparison.diagnose_fault(None, dict(setting))


@pytest.mark.slow
@pytest.mark.parametrize("fault", SHOWN, ids=lambda fault: fault.name)
def test_a_fault_of_the_catalogue_is_named_and_the_correct_loop_has_none(fault: catalogue.Fault) -> None:
    setting = setting_of(fault)
    findings = comparison.diagnose_fault(fault, setting)
    assert any(fault.name == finding.name or fault.name in finding.aliases for finding in findings[:2]), str(findings)
    assert all(len(finding.aliases) <= 2 for finding in findings)
    correct = correct_findings(tuple(sorted(setting.items())))
    assert not correct.faults, str(correct)


def test_a_schedule_that_has_ticked_before_the_watch_is_no_fault() -> None:
    rates = [0.9**tick for tick in range(40)]
    model, loss = network(), nn.MSELoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda tick: rates[tick])

    def epoch() -> None:
        for x, y in samples():
            optimizer.zero_grad()
            loss(model(x), y).backward()
            optimizer.step()
            scheduler.step()

    epoch()
    with rislab.watch(
        model, optimizer, loss=loss, accumulation_steps=1, scheduler=scheduler, scheduler_interval="step"
    ) as watch:
        epoch()
    assert watch.findings() == []


def accelerated(samples: int, *, accumulate: bool = True, share: float = 1.0, **declared: Any) -> Findings:
    """A loop as accelerate's documentation has it, watched."""
    GradientState._reset_state()
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=4)
    torch.manual_seed(0)
    inputs = torch.randn(samples, 10)
    model = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 1))
    data = torch.utils.data.TensorDataset(inputs, inputs[:, :1].sin())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    loader = torch.utils.data.DataLoader(data, 16, shuffle=True)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    with rislab.watch(model, optimizer, accelerator=accelerator, **declared) as watch:
        for _ in range(2):
            for given, wanted in loader:
                with accelerator.accumulate(model) if accumulate else nullcontext():
                    accelerator.backward(share * nn.functional.mse_loss(model(given), wanted))
                    if accelerator.sync_gradients:
                        accelerator.clip_grad_norm_(model.parameters(), 1.0)
                    optimizer.step()
                    optimizer.zero_grad()
    AcceleratorState._reset_state(reset_partial_state=True)
    return watch.findings()


@pytest.mark.slow
def test_an_accelerator_says_what_the_loop_is_meant_to_do() -> None:
    assert [str(one) for one in accelerated(256) if one.severity != "note"] == []
    assert [one.name for one in accelerated(256, share=0.25).faults] == ["divided twice"]
    assert "step per micro-batch" in [one.name for one in accelerated(256, accumulate=False).faults]
    # The library divides by K in every window.
    (finding,) = (one for one in accelerated(288) if one.severity != "note")
    assert (finding.severity, finding.name) == ("warning", "ragged window divided by K")
    assert "accelerate divides by K in every window, so that this one counts 2/4" in finding.evidence


def test_an_accelerator_that_is_none_or_that_contradicts_is_refused() -> None:
    with pytest.raises(InputError, match=r"accumulation_steps is 8; allowed: 4, that of the accelerator, or none"):
        accelerated(256, accumulation_steps=8)
    AcceleratorState._reset_state(reset_partial_state=True)
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(InputError, match="accelerator is a str; allowed: an Accelerator of accelerate"):
        rislab.watch(model, optimizer, accelerator="cpu")


@pytest.mark.parametrize(
    ("weighed", "weight"),
    [
        (lambda a, b: (a + b).backward(), 1.0),
        (lambda a, b: (0.5 * (a + b) / 2).backward(), 0.25),
        (lambda a, b: torch.autograd.backward([a, b], [torch.tensor(3.0)] * 2), 3.0),
    ],
)
@pytest.mark.parametrize("one_node", [False, True])
def test_a_backward_comes_to_all_losses_of_its_sum(
    one_node: bool, weighed: Callable[[Tensor, Tensor], None], weight: float
) -> None:
    """Whether a node gave one of them or all, and in windows that are not compared as in those that are."""
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    with rislab.watch(model, optimizer, loss=lambda value: value, every=2) as watch:
        for _ in range(4):
            optimizer.zero_grad()
            losses = model(torch.randn(2, 4))[:, 0].square()
            parts = losses.unbind() if one_node else (losses[0], losses[1])
            weighed(*map(watch.loss, parts))
            optimizer.step()
    batches = [batch for step in watch.trace.steps for batch in step.micro_batches]
    assert [(batch.backwards, batch.weight) for batch in batches] == [(1, weight)] * 8


def test_a_watch_that_is_entered_within_itself_hears_each_event_once() -> None:
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    watch = rislab.watch(model, optimizer, every=1)

    def train() -> None:
        for _ in range(4):
            optimizer.zero_grad()
            functional.mse_loss(model(torch.randn(8, 3)), torch.randn(8, 1)).backward()
            optimizer.step()

    with watch:
        with watch:
            train()
        train()
    assert watch.trace.step_count == 8
    assert not watch.findings()


def test_whoever_watches_nothing_loads_neither_observers_nor_rules() -> None:
    code = (
        "import sys, rislab.checkup as c\nc.watch\nprint(*(name for name in sys.modules if name.startswith('rislab.')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    rooms = {name.split(".")[2] for name in done.stdout.split() if name.count(".") > 1}
    assert "recording" in rooms and rooms.isdisjoint({"observers", "probes", "step_rules", "diagnosis"})
