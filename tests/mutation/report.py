"""The report on the mutants, in Markdown."""

from __future__ import annotations

import datetime
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from rislab import files, provenance
from tests.mutation.mutants import FUNCTIONS, OPERATORS, Mutant
from tests.mutation.trial import KINDS, SETTINGS, Verdict

# Why a mutant that changes training is not flagged, with those that it is true of; names without line numbers, so that
# they survive edits elsewhere in the function. Only survivors are looked up.
WHY = {
    "A step whose true gradient is longer than the declared limit, and which was not clipped, is taken as exact: only "
    "steps that differ from their window are held against the limit.": (
        "fit delete `if finite and config.clip_norm is not None and (norm > config.clip_norm):`",
        "fit delete `clip_grads_with_norm_(model.parameters(), config.clip_norm, norm)`",
        "fit dedent alone `if finite and config.clip_norm is not None and (norm > config.clip_norm):`",
        "fit swap `if finite and config.clip_norm is not None and (norm > config.clip_norm):` and "
        "`if finite or scaler.is_enabled():`",
        "fit negate `finite and config.clip_norm is not None and (norm > config.clip_norm)`",
        "fit negate `finite`",
        "fit negate `config.clip_norm is not None`",
        "fit negate `norm > config.clip_norm`",
        "train delete `if clip is not None:`",
        "train delete `torch.nn.utils.clip_grad_norm_(model.parameters(), clip)`",
        "train dedent alone `if clip is not None:`",
        "train negate `clip is not None`",
    ),
    "All training losses are in evaluation mode, which fine-tuning may want: a warning says so.": (
        "fit delete `model.train()`",
        "fit dedent alone `model.train()`",
        "train delete `model.train()`",
        "train dedent alone `model.train()`",
    ),
    "The schedule never ticks while steps are taken: only ticks that come too early or too often are checked.": (
        "fit delete `if applied:`",
        "fit delete `state.scheduler.step()`",
        "fit dedent `for epoch in range(state.progress.epoch, config.epochs + 1):`",
        "fit dedent alone `if finite or scaler.is_enabled():`",
        "train delete `if scheduler is not None and scaler.get_scale() >= before:`",
        "train delete `scheduler.step()`",
        "train negate `scheduler is not None`",
        "train off by one `scaler.get_scale() >= before`",
    ),
    "The schedule ticks once an epoch, as many are meant to: what it should be was not declared, and a note says so.": (
        "train dedent `scaler.update()`",
        "train dedent `if scheduler is not None and scaler.get_scale() >= before:`",
    ),
    "Fewer epochs are trained, each as it should be, and as many are reported: how many there were to be was not "
    "declared.": (
        "fit dedent `began = time.perf_counter()`",
        "fit dedent `phase = loss_weights_at(config.curriculum, epoch, config.epochs)`",
        "fit dedent `model.train()`",
        "fit dedent `for window in windows(len(data), config, epoch)[state.progress.window:]:`",
        "fit dedent `summary = _summary(state, data, validation, phase, began)`",
        "fit dedent `state.progress.next_epoch()`",
        "train dedent `model.train()`",
        "train dedent `running = 0.0`",
        "train dedent `for window in windows(data, K):`",
        "train indent `return reported`",
    ),
    "One epoch is trained, and its loss reported three times, bit by bit the same; as the losses observed are "
    "no multiple of what was reported, none of it is checked.": (
        "fit delete `state.progress.next_epoch()`",
        "fit dedent alone `state.progress.next_epoch()`",
    ),
    "Every window ends an epoch, and reports its own loss, which is right; that the numbers are more than the epochs "
    "shows only where the epochs are declared.": (
        "fit indent `summary = _summary(state, data, validation, phase, began)`",
    ),
    "Partial sums are reported, more of them than epochs; as the losses observed are no multiple of that, none "
    "of it is checked, although no mean of them is so small.": (
        "train indent `reported.append(running / sum((len(x) for x, y in data)))`",
    ),
    "Nothing is reported, which is taken for nothing to check.": (
        "fit delete `yield summary`",
        "train delete `reported.append(running / sum((len(x) for x, y in data)))`",
    ),
    "Nothing runs at all: without a forward the checkup says only that it observed no loss.": (
        "train delete `for epoch in range(epochs):`",
        "train delete `for window in windows(data, K):`",
        "train swap `for epoch in range(epochs):` and `return reported`",
    ),
    "Steps are taken without any forward: the checkup says only that it observed no loss.": (
        "train delete `for x, y in window:`",
    ),
    "Losses of 0 are reported, and one epoch is trained; as the losses observed are no multiple of what was "
    "reported, none of it is checked.": ("train dedent alone `for window in windows(data, K):`",),
    "The network runs in single precision under a scaler, outside of autocast: which precision is meant was not "
    "declared.": (
        "fit dedent `predicted = model(batch.snapshots, batch.codes, batch.channel)`",
        "train dedent `loss = compute_loss(model(x), y)`",
        "counted dedent `loss = compute_loss(model(x), y)`",
    ),
    "The network runs in half precision where single was asked for, and the other way round: which precision is meant "
    "was not declared.": ("train negate `half is not None`", "counted negate `half is not None`"),
    "Windows are smaller than K, and the checkup does not know where an epoch ends, so that each of them might be the "
    "last of one.": (
        "windows K − 1 in `size = config.accumulation_steps`",
        "windows K − 1 in `first + size`",
        "train K − 1 in `windows(data, K)`",
    ),
    "After each window a micro-batch is left out, as if the data were fewer; windows and weights are right for those "
    "that are seen.": ("windows K + 1 in `range(0, len(micro_batches), size)`",),
    "The last micro-batch of a window is the first of the next as well; windows and weights are right, and the checkup "
    "does not compare the inputs of micro-batches.": ("windows K − 1 in `range(0, len(micro_batches), size)`",),
    "Random numbers of the network come from the caller's generator, not from that of the run: another draw, of which "
    "the contract says nothing.": (
        "fit dedent `optimizer.zero_grad(set_to_none=True)`",
        "fit dedent `for indices in window.micro_batches:`",
    ),
}
REASONS = {name: why for why, names in WHY.items() for name in names}
# Names of faults, with the mutants for which each is right.
RIGHT_NAMES = files.read_mapping(Path(__file__).with_name("right_names.yaml"), "holds no mapping; allowed: names")


def key(mutant: Mutant) -> str:
    """Name of a mutant without its line number, as in REASONS."""
    return re.sub(r":\d+ ", " ", mutant.name, count=1)


def is_named(verdict: Verdict) -> bool:
    """Whether one of the first two faults, under some setting, has a name that is right for the edit."""
    right = {name for name, edits in RIGHT_NAMES.items() if any(re.search(edit, key(verdict.mutant)) for edit in edits)}
    faults = [[one.name for one in found if one.severity == "fault"] for found in verdict.found.values()]
    return any(name in right for names in faults for name in names[:2])


def header(title: str, command: str) -> list[str]:
    """First lines of a report: what it was made of, where, when and how."""
    versions = ", ".join(
        f"{name} {version}" for name, version in provenance.versions(("rislab", "torch", "numpy")).items()
    )
    return [
        f"# {title}",
        "",
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC · commit {provenance.commit()} · {versions} · "
        f"{provenance.processor()} · `{command}`",
        "",
    ]


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """A table in Markdown; an empty line follows."""
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return [*lines, *("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows), ""]


def share(part: int, whole: int) -> str:
    """A share in percent, with the numbers behind it."""
    return f"{100 * part / whole:.1f} % ({part} of {whole})" if whole else "none"


def text(verdicts: Sequence[Verdict], false_alarms: Sequence[str], seconds: float) -> str:
    """The whole report, in Markdown."""
    by_kind = {kind: [verdict for verdict in verdicts if verdict.kind == kind] for kind in KINDS}
    lines = header("Mutants of the loop under the checkup", "python -m tests.mutation")
    lines += [f"{len(verdicts)} mutants, each trained under all settings of its loop, in {seconds:.0f} s.", ""]
    lines += [*_summary(verdicts, by_kind, false_alarms), ""]
    for loop, settings in SETTINGS.items():
        lines += [f"Settings of `{FUNCTIONS[loop][0]}`:", ""]
        lines += [*(f"{number}. {setting.name}" for number, setting in enumerate(settings, start=1)), ""]
    lines += ["## By operator", ""]
    for loop in SETTINGS:
        mine = [verdict for verdict in verdicts if verdict.mutant.loop == loop]
        counts = [(operator, [v for v in mine if v.mutant.operator == operator]) for operator in OPERATORS]
        rows = [_counts(name, group) for name, group in [*counts, ("all", mine)] if group]
        lines += table((f"`{FUNCTIONS[loop][0]}`", "mutants", *KINDS, "flagged, of those that change"), rows)
    told = "Numbers in brackets are those of the settings in which a finding was made, or a change seen."
    lines += ["## Survivors", "", f"They change the weights or the reported loss, and no fault was found. {told}", ""]
    lines += table(("mutant", "edit", "changes", "milder findings", "reason"), map(_survivor, by_kind["survivor"]))
    lines += ["## Equivalent", "", "Trained and told bit by bit like the correct loop.", ""]
    lines += table(("mutant", "edit"), ((v.mutant.name, _code(v.mutant.diff)) for v in by_kind["equivalent"]))
    lines += ["## Observation only", ""]
    lines += table(("mutant", "told differently", "faults", "milder"), map(_observation, by_kind["observation only"]))
    lines += ["## Flagged", ""]
    rows = (
        (v.mutant.name, _listed(v.names(True)), "" if is_named(v) else "no", _listed(v.names(False)))
        for v in by_kind["flagged"]
    )
    lines += table(("mutant", "faults found", "rightly named", "milder findings"), rows)
    lines += ["## Loud", ""]
    lines += table(("mutant", "exception"), ((v.mutant.name, next(iter(v.crashes.values()))) for v in by_kind["loud"]))
    return "\n".join(lines).rstrip() + "\n"


def _summary(verdicts: Sequence[Verdict], by_kind: dict[str, list[Verdict]], false_alarms: Sequence[str]) -> list[str]:
    flagged, whole = len(by_kind["flagged"]), len(verdicts)
    unexplained = [verdict.mutant.name for verdict in by_kind["survivor"] if key(verdict.mutant) not in REASONS]
    warned = [v for v in by_kind["survivor"] if any(f.severity == "warning" for one in v.found.values() for f in one)]
    unjust = [f"{v.mutant.name} {v.unjust}: {_listed(v.names(True))}" for v in verdicts if v.unjust]
    blamed = [f"{v.mutant.name} ({'; '.join(v.crashes.values())})" for v in verdicts if v.blamed]
    return [
        "- **flagged**, of those that change the weights or the reported loss in silence: "
        f"**{share(flagged, flagged + len(by_kind['survivor']))}**; with those that a warning names: "
        f"{share(flagged + len(warned), flagged + len(by_kind['survivor']))}",
        f"- **rightly named**, of the flagged: **{share(sum(map(is_named, by_kind['flagged'])), flagged)}**; one of "
        "the first two faults under some setting has a name that right_names.yaml gives to the edit",
        f"- **equivalent**, of all: **{share(len(by_kind['equivalent']), whole)}**; weights, averaged weights, random "
        "state and every number of every record are those of the correct loop, bit by bit, under all settings (times "
        "of the clock left out)",
        f"- loud, of all: {share(len(by_kind['loud']), whole)}; they raise an exception under some setting, and change "
        "neither weights nor reported loss under the others",
        f"- observation only, of all: {share(len(by_kind['observation only']), whole)}; they change what else is told, "
        "not the weights and not the reported loss",
        f"- survivors without a reason: {'; '.join(unexplained) or 'none'}",
        f"- the correct loop flagged: {'; '.join(false_alarms) or 'never'}",
        f"- mutants flagged under settings where they change nothing: {'; '.join(unjust) or 'none'}",
        f"- exceptions that the checkup raised: {'; '.join(blamed) or 'none'}",
    ]


def entry(verdict: Verdict) -> str:
    """A verdict for a terminal, with the evidence of its findings."""
    lines = ["", f"{verdict.kind}: {verdict.mutant.name}", verdict.mutant.diff]
    for number, text in verdict.changes.items():
        lines.append(f"  [{number}] changes {text}")
    for number, found in verdict.found.items():
        lines += [f"  [{number}] {finding.severity} {finding.name}: {finding.evidence}" for finding in found]
    return "\n".join([*lines, *(f"  [{number}] raises {text}" for number, text in verdict.crashes.items())])


def _listed(names: dict[str, list[int]]) -> str:
    """Names of findings, with the settings in which they were made."""
    return ", ".join(f"{name} {numbers}" for name, numbers in names.items())


def _code(diff: str, most: int = 2) -> str:
    """A diff for a cell of a table: the first lines that go and come, and how many more there are."""
    shown = []
    for sign in "-+":
        lines = [line for line in diff.splitlines() if line.startswith(sign)]
        shown += [f"`{line}`" for line in lines[:most]]
        shown += [f"and {len(lines) - most} more" for _ in lines[most : most + 1]]
    return "<br>".join(shown)


def _survivor(verdict: Verdict) -> tuple[str, ...]:
    mutant = verdict.mutant
    changes = "<br>".join(f"[{number}] {text}" for number, text in verdict.changes.items())
    return mutant.name, _code(mutant.diff), changes, _listed(verdict.names(False)), REASONS.get(key(mutant), "")


def _observation(verdict: Verdict) -> tuple[str, ...]:
    # The names that occur under any setting.
    names = dict.fromkeys(name for text in verdict.changes.values() for name in text.split(", "))
    return verdict.mutant.name, ", ".join(names), _listed(verdict.names(True)), _listed(verdict.names(False))


def _counts(name: str, group: Sequence[Verdict]) -> tuple[object, ...]:
    kinds = Counter(verdict.kind for verdict in group)
    changing = kinds["flagged"] + kinds["survivor"]
    return name, len(group), *(kinds[kind] for kind in KINDS), share(kinds["flagged"], changing)
