"""Scripts under the checkup, none of which knows of it: correct ones, the same with a fault, and strange ones."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import rislab
from rislab.checkup.output.report import CheckupReport
from rislab.checkup.process_watch import ProcessWatch
from rislab.checkup.recording.windows import Declared
from rislab.checkup.script import run_script
from rislab.cli.main import main
from rislab.errors import InputError

FOLDER = Path(__file__).parents[1] / "scripts"
CORRECT = sorted(path.stem for path in FOLDER.glob("*.py"))
BACKWARD = "l.backward()\n"

# Script, edit, and the names that the fault may be given.
FAULTY: dict[str, tuple[str, str, str, tuple[str, ...]]] = {
    "the division forgotten": ("multitask_acc", "(l / size).backward()", BACKWARD.strip(), ("never divided",)),
    "divided by K at the ragged end": ("multitask_acc", "(l / size)", "(l / K)", ("ragged window divided by K",)),
    "no step at the ragged end": (
        "multitask_acc", " or i + 1 == n", "",
        ("tail never stepped", "left-overs leak", "ragged window divided by K"),
    ),
    "a window that begins late": (
        "arguments", '(i + (a.bad != "off")) % a.k', "i % a.k", ("window off by one", "left-overs leak")
    ),
    "zeroed in each pass": (
        "multitask_acc", "        p = m(X[s])\n", "        o.zero_grad()\n        p = m(X[s])\n",
        ("zeroed per micro-batch", "backward after the batch loop"),
    ),
    "a mean of means": ("ragged_ok", "len(x) / n", "1 / len(win)", ("mean of means in the window",)),
    "backward after the loop": (
        "ragged_ok", "            (F.mse_loss(m(x), y) * len(x) / n).backward()\n",
        "            l = F.mse_loss(m(x), y)\n        l.backward()\n",
        ("backward after the batch loop", "forwards that reached no step"),
    ),
    "gradients never zeroed": ("mnist", "        o.zero_grad()\n", "", ("never zeroed",)),
    "zeroed just before the step": ("mnist", "        o.step()\n", "        o.zero_grad()\n        o.step()\n",
        ("zeroed before the step",)),
    "evaluation never undone": ("mnist", "    m.train()\n", "", ("eval never undone",)),
    "two steps": ("mnist", "        o.step()\n", "        o.step()\n        o.step()\n", ("stepped twice",)),
    "a schedule that begins at 0": ("bf16", "min(1, (t + 1) / 5)", "min(1, max(0, t - 1) / 5)",
        ("learning rate 0 at the first step", "warm-up counted in samples")),
    "the schedule before the optimiser": (
        "bf16", "    o.step()\n    sch.step()\n", "    sch.step()\n    o.step()\n", ("scheduler before the optimiser",)
    ),
    "the tick of each batch": (
        "ragged_ok", "            (F.mse_loss(m(x), y) * len(x) / n).backward()\n",
        "            (F.mse_loss(m(x), y) * len(x) / n).backward()\n            o.sch.step()\n",
        ("scheduler per micro-batch", "scheduler before the optimiser"),
    ),
    "clipped before unscaling": ("fp16", "        sc.unscale_(o)\n", "", ("clipped before unscaling",)),
    "the scaler passed by": ("fp16", "        sc.step(o)\n", "        o.step()\n", ("scaler bypassed",)),
    "no scaler at all": (
        "fp16", 'sc = torch.amp.GradScaler("cpu")', 'sc = torch.amp.GradScaler("cpu", enabled=False)',
        ("scaler only where CUDA is",),
    ),
    "NaN turned into 0": (
        "char_rnn", "        torch.nn.utils.clip",
        "        if i == 20:\n            m.o.weight.grad[0, 0] = float('nan')\n        torch.nn.utils.clip",
        ("NaN reached a step",),
    ),
    "clipped in each pass": (
        "tied_lm", '            l.backward()\n        torch.nn.utils.clip_grad_norm_(m.parameters(), 1.0)\n',
        '            l.backward()\n            torch.nn.utils.clip_grad_norm_(m.parameters(), 0.01)\n',
        ("clipped per micro-batch", "gradient direction"),
    ),
    "a step in each pass": (
        "ragged_ok", "            (F.mse_loss(m(x), y) * len(x) / n).backward()\n        o.step()\n",
        "            (F.mse_loss(m(x), y) * len(x) / n).backward()\n            o.step()\n",
        ("step per micro-batch", "left-overs leak", "never zeroed"),
    ),
    "the old head in the optimiser": (
        "transfer", "crit = nn.CrossEntropyLoss()", "crit = nn.CrossEntropyLoss()\nh = m[1] = nn.Linear(8, 2)",
        ("optimiser holds stale parameters",),
    ),
    "weights in bfloat16": (
        "max_steps", "m = nn.Linear(5, 1)\n", "m = nn.Linear(5, 1).bfloat16()\n", ("weights kept in bf16",)
    ),
    "a layer left out": (
        "vae", "torch.optim.Adam(m.parameters(), 1e-3)",
        "torch.optim.Adam([*m.a.parameters(), *m.d.parameters()], 1e-3)",
        ("not in the optimiser",),
    ),
    "a schedule much too fast": (
        "distill", "CosineAnnealingLR(o, 12)", "StepLR(o, 1, 0.1)", ("schedule ends early",)
    ),
}  # fmt: skip


def run(path: Path, **options: Any) -> CheckupReport:
    return run_script(path, **{"steps": 60, **options})


@pytest.fixture(autouse=True)
def one_seed() -> None:
    torch.manual_seed(0)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CORRECT)
def test_a_correct_script_has_no_faults(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    result = run(FOLDER / f"{name}.py")
    assert not result.failed, result.ended
    assert result.findings.faults == [], str(result.findings)
    assert result.trained and result.exit_code(allow_unjudged=True) == 0


def edited(name: str, folder: Path) -> Path:
    script, before, after, _ = FAULTY[name]
    source = (FOLDER / f"{script}.py").read_text()
    assert source.count(before) == 1, (name, source.count(before))
    source = source.replace(before, after)
    if "o.sch" in source:
        source = source.replace("X = ", "o.sch = torch.optim.lr_scheduler.LambdaLR(o, lambda t: 0.99**t)\nX = ", 1)
    if name == "weights in bfloat16":
        source = source.replace("torch.optim.SGD(m.parameters(), 0.05)", "torch.optim.SGD(m.parameters(), 1e-6)")
        source = source.replace("X = torch.randn(72, 5)", "X = torch.randn(72, 5).bfloat16()")
    path = folder / f"{script}.py"
    path.write_text(source)
    return path


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FAULTY)
def test_the_fault_of_a_script_is_named(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run(edited(name, tmp_path))
    assert not result.failed, result.ended
    first = [finding for finding in result.findings if finding.severity != "note"][:2]
    assert {name for finding in first for name in (finding.name, *finding.aliases)} & set(FAULTY[name][3]), str(
        result.findings
    )


def script(folder: Path, text: str) -> Path:
    path = folder / "script.py"
    path.write_text(text)
    return path


PLAIN = """
import sys
import threading
import torch
m = torch.nn.Linear(3, 1)
o = torch.optim.SGD(m.parameters(), 0.1)
for i in range(8):
    o.zero_grad()
    m(torch.ones(2, 3)).square().mean().backward()
    o.step()
"""


@pytest.mark.parametrize(
    ("text", "code", "ended"),
    [
        (PLAIN, 0, "ran to its end"),
        (PLAIN.replace("    o.zero_grad()\n", ""), 1, "ran to its end"),
        (PLAIN + "1 / 0\n", 2, "crashed: ZeroDivisionError"),
        (PLAIN + "sys.exit(3)\n", 2, "exit code 3"),
        (PLAIN + "sys.exit(0)\n", 0, "ran to its end"),
        (PLAIN + "raise KeyboardInterrupt\n", 2, "was interrupted"),
        ("print('no training here')\n", 2, "ran to its end"),
        (PLAIN.replace("range(8)", "range(10**9)"), 0, "was stopped"),
        ("def f(:\n", 2, "crashed: SyntaxError"),
        (PLAIN.replace("        o.step()", "").replace("    o.step()\n", ""), 1, "ran to its end"),
    ],
)
def test_the_exit_code_says_how_it_ended(tmp_path: Path, text: str, code: int, ended: str) -> None:
    result = run(script(tmp_path, text))
    assert result.exit_code() == code, str(result.findings)
    assert ended in result.ended


def test_a_script_finds_its_arguments_its_folder_and_its_name(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("WORD = 'beside'\n")
    text = PLAIN + "import beside\nprint(beside.WORD, sys.argv[1:], __name__)\nassert sys.argv[1:] == ['--k', '3']\n"
    before = list(sys.argv), list(sys.path)
    result = run(script(tmp_path, text), arguments=("--k", "3"))
    assert result.exit_code() == 0, result.ended
    assert (list(sys.argv), list(sys.path)) == before


def test_declared_contracts_are_held_against_a_script(tmp_path: Path) -> None:
    assert run(script(tmp_path, PLAIN), declared=Declared(clip_norm=1e-3)).exit_code() == 1
    assert run(script(tmp_path, PLAIN), declared=Declared(accumulation_steps=2)).exit_code() == 1


def test_a_missing_script_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="SCRIPT is"):
        run_script(tmp_path / "nothing.py")


@pytest.mark.process
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.usefixtures("forked")
def test_a_fork_reports_nothing_of_its_own(tmp_path: Path) -> None:
    text = PLAIN + "import os\npid = os.fork()\nif pid == 0:\n    sys.exit(0)\nassert os.waitpid(pid, 0)[1] == 0\n"
    path = script(tmp_path, text)
    done = subprocess.run(
        [sys.executable, "-m", "rislab.cli", "checkup", str(path)], capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("watched:") == 1


WEIGHTS = PLAIN + "torch.save([p.detach().clone() for p in m.parameters()], sys.argv[1])\n"
HEADS = ("torch.manual_seed(0)\n", "torch.manual_seed(0)\ntorch.randn(3)\n")
# Runs scripts one after the other, with nothing of rislab in the process.
ALONE = """
import runpy, sys
for path in sys.argv[1:]:
    sys.argv = [path, path.replace(".py", " alone.pt")]
    runpy.run_path(path, run_name="__main__")
assert not any(name.startswith("rislab") for name in sys.modules)
"""


@pytest.mark.process
def test_a_watched_script_trains_bit_by_bit_as_an_unwatched_one(tmp_path: Path) -> None:
    paths = [tmp_path / f"{place}.py" for place in range(len(HEADS))]
    for path, head in zip(paths, HEADS, strict=True):
        path.write_text(WEIGHTS.replace("m = ", head + "m = ", 1).replace("torch.ones(2, 3)", "torch.randn(2, 3)"))
        run(path, arguments=(str(path.with_name(f"{path.stem} watched.pt")),), steps=None)
    subprocess.run([sys.executable, "-c", ALONE, *map(str, paths)], check=True, timeout=900)
    trained = [
        [torch.load(path.with_name(f"{path.stem} {how}.pt"), weights_only=True) for how in ("watched", "alone")]
        for path in paths
    ]
    for watched, alone in trained:
        assert all(torch.equal(one, other) for one, other in zip(watched, alone, strict=True))
    assert not torch.equal(trained[0][0][0], trained[1][0][0])


def test_the_command_prints_findings_or_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty = script(tmp_path, PLAIN.replace("    o.zero_grad()\n", "") + "print('hello')\n")
    assert main(["checkup", str(faulty)]) == 1
    printed = capsys.readouterr().out
    assert "FAULT   C2 never zeroed" in printed and "hello" in printed and "fix:" in printed
    assert re.search(r"where: .*script\.py:\d+", printed)
    assert main(["checkup", str(faulty), "--json", "--steps", "5"]) == 1
    captured = capsys.readouterr()
    plain = json.loads(captured.out)
    assert plain["steps"] == 5 and plain["exit_code"] == 1 and plain["findings"][0]["name"] == "never zeroed"
    assert main(["checkup", str(tmp_path / "nothing.py")]) == 2
    assert "SCRIPT is" in capsys.readouterr().err
    assert main(["checkup", str(faulty), "--steps", "0"]) == 2
    assert "steps is 0" in capsys.readouterr().err


def test_what_was_there_before_is_of_no_concern(tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 1)
    earlier = torch.optim.SGD(model.parameters(), 0.1), torch.amp.GradScaler("cpu", init_scale=8192.0)
    earlier[1].scale(model(torch.ones(1, 3)).sum()).backward()
    result = run(script(tmp_path, PLAIN))
    assert len(result.optimisers) == 1 and result.exit_code() == 0, str(result.findings)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("compiled", ["m = torch.compile(m, backend='eager')", "m.compile(backend='eager')"])
@pytest.mark.parametrize("change", [lambda text: text, lambda text: text.replace("    o.zero_grad()\n", "")])
def test_a_compiled_network_is_watched_like_another(
    tmp_path: Path, change: Callable[[str], str], compiled: str
) -> None:
    source = change(PLAIN.replace("for i", f"{compiled}\nfor i"))
    result = run(script(tmp_path, source))
    assert not result.failed, result.ended
    assert [finding.name for finding in result.findings.faults] == ([] if "zero_grad" in source else ["never zeroed"])


class OwnOptimizer:
    """As of another library: it knows no hook of torch."""

    def __init__(self, tensors: list[Tensor]) -> None:
        self.tensors = tensors

    def step(self) -> None:
        with torch.no_grad():
            for value in self.tensors:
                if value.grad is not None:
                    value -= 0.01 * value.grad

    def zero_grad(self) -> None:
        for value in self.tensors:
            value.grad = None


@pytest.mark.parametrize("divisor", [4, 1])
def test_an_optimiser_of_another_library_is_judged_by_what_its_tensors_do(divisor: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    optimizer = OwnOptimizer(list(model.parameters()))
    with ProcessWatch() as watch:
        for _ in range(8):
            for _ in range(4):
                inputs = torch.randn(16, 4)
                (nn.functional.mse_loss(model(inputs), inputs.sum(1, keepdim=True)) / divisor).backward()
            optimizer.step()
            optimizer.zero_grad()
    names = [finding.name for finding in watch.findings() if finding.severity != "note"]
    assert names == ([] if divisor == 4 else ["never divided"])


@pytest.mark.parametrize("kind", ["set", "averaged", "another's"])
def test_a_copy_that_follows_a_trained_network_has_no_optimiser_of_its_own(kind: str) -> None:
    """As the target of Q-learning: it gets gradients where its answer is not detached, and nothing steps on them."""
    torch.manual_seed(0)
    online, copied = (nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2)) for _ in range(2))
    optimizer = torch.optim.Adam(online.parameters(), lr=0.001)
    own = OwnOptimizer(list(copied.parameters()))
    if kind == "another's":  # it is built in another way, and an optimiser of its own steps on it, and never zeroes
        copied.append(nn.Linear(2, 2))
    with ProcessWatch() as watch:
        for step in range(40):
            values = online(torch.randn(32, 4)).max(1)[0]
            following = copied(torch.randn(32, 4)).max(1)[0]
            optimizer.zero_grad()
            functional.smooth_l1_loss(values, 1 + 0.9 * following).backward()
            optimizer.step()
            if kind == "another's":
                own.step()
            elif kind == "set" and step % 8 == 7:
                copied.load_state_dict(online.state_dict())
            elif kind == "averaged":
                for value, new in zip(copied.parameters(), online.parameters(), strict=True):
                    value.data.copy_(0.9 * value.data + 0.1 * new.data)
    names = [finding.name for finding in watch.findings() if finding.severity == "fault"]
    assert names == (["never zeroed"] if kind == "another's" else [])


def test_threads_that_train_at_once_are_not_judged_beside_the_first() -> None:
    barrier = threading.Barrier(2)

    def train() -> None:
        network = nn.Linear(3, 1)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        for _ in range(4):
            barrier.wait()
            optimizer.zero_grad()
            functional.mse_loss(network(torch.ones(2, 3)), torch.ones(2, 1)).backward()
            optimizer.step()

    with ProcessWatch() as watch:
        threads = [threading.Thread(target=train) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    findings = watch.findings()
    assert not findings.faults
    assert "training in other threads than the watched one: 1" in [one.evidence for one in findings]


def test_a_thread_that_is_about_to_start_does_not_train(monkeypatch: pytest.MonkeyPatch) -> None:
    # threading.enumerate() lists it already, and its identity is None.
    running = threading.enumerate
    monkeypatch.setattr(threading, "enumerate", lambda: [*running(), threading.Thread()])
    torch.manual_seed(0)
    network = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    with ProcessWatch() as watch:
        for _ in range(4):
            inputs = torch.randn(8, 3)
            optimizer.zero_grad()
            functional.mse_loss(network(inputs), inputs.sum(1, keepdim=True)).backward()
            optimizer.step()
    assert [finding.name for finding in watch.findings()] == []


@pytest.mark.parametrize(("taken_over", "scheduled"), [("all", False), ("more", False), ("all", True), ("more", True)])
def test_a_scheduler_whose_optimiser_was_replaced_is_a_fault_unless_it_was_too(
    taken_over: str, scheduled: bool
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    first = list(model.parameters() if taken_over == "all" else model[1].parameters())
    optimizer = torch.optim.SGD(first, lr=0.1)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    with ProcessWatch() as watch:
        for epoch in range(8):
            if epoch == 3:
                optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
                scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9) if scheduled else scheduler
            for _ in range(2):
                optimizer.zero_grad()
                model(torch.randn(8, 3)).square().mean().backward()
                optimizer.step()
            scheduler.step()
    names = [one.name for one in watch.findings() if one.severity == "fault"]
    assert names == [] if scheduled else names == ["scheduler of another optimiser"]


@pytest.mark.parametrize("copied", [True, False])
def test_tensors_of_one_storage_are_warned_of(copied: bool) -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[1].weight = nn.Parameter(model[0].weight) if copied else model[0].weight
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ProcessWatch() as watch:
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.randn(8, 4)).square().mean().backward()
            optimizer.step()
    texts = [one.evidence for one in watch.findings() if one.severity != "note"]
    assert [text.endswith(": 0.weight, 1.weight") for text in texts] == [True] * copied


@pytest.mark.parametrize("probed", [False, True])
def test_what_a_probe_tries_is_no_part_of_the_watched_loop(probed: bool) -> None:
    x, y = torch.randn(8, 4), torch.randint(0, 2, (8, 1)).float()
    with ProcessWatch() as watch:
        model = nn.Linear(4, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        if probed:
            # The loss has no entry in the table of minima, so that the probe descends on the answers.
            rislab.probe(model, lambda a, b: (torch.sigmoid(a) - b).abs().mean(), [(x, y)], only=["P2"], steps=20)
        for _ in range(3):
            optimizer.zero_grad()
            functional.mse_loss(model(x), y).backward()
            optimizer.step()
    assert watch.steps == 3
    assert not watch.findings().faults


def test_ever_new_networks_are_not_all_kept_alive() -> None:
    alive: list[weakref.ref[nn.Module]] = []

    def train(wrong: bool) -> None:
        model = nn.Sequential(nn.Linear(3, 800), nn.ReLU(), nn.Linear(800, 800), nn.ReLU(), nn.Linear(800, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        for _ in range(3):
            if not wrong:
                optimizer.zero_grad()
            inputs = torch.randn(8, 3)
            functional.mse_loss(model(inputs), inputs[:, :1]).backward()
            optimizer.step()
        alive.append(weakref.ref(model))

    with ProcessWatch(every=1) as watch:
        for number in range(48):
            train(wrong=number == 1)
    # Sixteen that are watched, two of any size, and what waits for Python's collector.
    assert sum(one() is not None for one in alive) <= 24
    # What was found of those that are gone is told.
    assert [one.name for one in watch.findings()] == ["never zeroed"]
    assert watch.steps >= 48 * 2


@pytest.mark.parametrize("closure", [False, True])
def test_a_step_that_calls_that_of_its_base_class_is_one(closure: bool) -> None:
    class Own(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            return super().step(closure)

    # From then on, torch calls hooks in the step of the base class too.
    torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    model = nn.Linear(3, 1)
    optimizer = Own(model.parameters(), lr=0.01)

    def evaluate() -> Tensor:
        inputs = torch.randn(8, 3)
        optimizer.zero_grad()
        loss = functional.mse_loss(model(inputs), inputs[:, :1])
        loss.backward()
        return loss

    with ProcessWatch(every=1) as watch:
        for _ in range(8):
            if closure:
                optimizer.step(evaluate)
            else:
                evaluate()
                optimizer.step()
    assert not watch.findings(), str(watch.findings())
    # The first window of an optimiser that is found in its first step has passed.
    assert watch.steps == (8 if closure else 7)


@pytest.mark.process
def test_a_generator_that_is_never_finished_ends_with_the_process(tmp_path: Path) -> None:
    text = """
        import rislab, torch
        net = torch.nn.Linear(3, 1)
        opt = torch.optim.SGD(net.parameters(), lr=0.01)
        def train():
            with rislab.watch(net, opt, every=1):
                while True:
                    opt.zero_grad()
                    torch.nn.functional.mse_loss(net(torch.randn(4, 3)), torch.zeros(4, 1)).backward()
                    opt.step()
                    yield
        steps = train()
        for _ in range(9):
            next(steps)
    """
    path = script(tmp_path, textwrap.dedent(text))
    ended = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=300)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.process
def test_a_step_that_is_compiled_as_a_part_of_its_loop_is_not_judged(tmp_path: Path) -> None:
    text = """
        import torch
        net = torch.nn.Linear(3, 1)
        opt = torch.optim.SGD(net.parameters(), lr=0.01)
        @torch.compile(backend="eager")
        def train(x):
            opt.zero_grad()
            torch.nn.functional.mse_loss(net(x), x[:, :1]).backward()
            opt.step()
        for _ in range(3):
            train(torch.randn(4, 3))
    """
    result = run(script(tmp_path, textwrap.dedent(text)))
    assert result.exit_code() == 3, str(result)
