"""`rislab faults`: the catalogue, one fault beside the correct loop, and the answers of the quiz."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from rislab.cli import common, terminal
from rislab.errors import InputError
from rislab.faults.run_config import EPOCHS, FaultRunConfig

if TYPE_CHECKING:
    from rislab.faults.fault import Fault
    from rislab.training.records import Record

EXAMPLES = (
    ("faults", "the list"),
    ('faults "never divided"', "its story, its diff, and what it does"),
    ('faults "never divided" --records --json', "the records of a run with it, a line each"),
)


def add(parser: argparse.ArgumentParser) -> None:
    """Give the parser its options."""
    parser.description = (
        "List the faults, each an edit of the real source; or show one: its story, its diff, and what a short run of "
        "the faulty and of the correct loop measures. Exit code 1 if a fault does not show its symptom."
    )
    parser.add_argument("name", metavar="NAME", nargs="?", help='of a fault, such as "never divided"')
    parser.add_argument("--records", action="store_true", help="print the records of the faulty loop")
    common.add_parameters(parser, FaultRunConfig)
    parser.add_argument("--json", action="store_true", help="print the list, or the records, as JSON")


def run(options: argparse.Namespace) -> int:
    """The command itself; returns its exit code."""
    from rislab.faults import catalogue, comparison

    config = common.configured(options, FaultRunConfig)
    if config.quiz_key is not None:
        return _key(config.quiz_key)
    if options.name is None:
        if options.records:
            raise InputError("--records is given without a fault; allowed: the name of one before it")
        return _list(options.json)
    fault = catalogue.find_fault(options.name)
    if options.records or options.json:
        records = comparison.compare_runs(fault, optimiser=config.optimiser, epochs=config.epochs).faulty.records
        return _records(records, options.json)
    return _show(fault, config)


def _key(seed: int) -> int:
    from rislab.faults import quiz

    for number, name in enumerate(quiz.answer_key(seed), start=1):
        print(f"{number}. {name}")
    return 0


def _list(as_json: bool) -> int:
    import json

    from rislab.faults.catalogue import FAMILIES, FAULTS

    if as_json:
        plain = {family: {fault.name: fault.description for fault in members} for family, members in FAMILIES.items()}
        print(json.dumps(plain, indent=2, ensure_ascii=False))
        return 0
    for family, members in FAMILIES.items():
        print(f"\n{family} ({len(members)})")
        for fault in members:
            print(terminal.entry(f"  {fault.name}", fault.description, 47))
    print(f'\n{len(FAULTS)} faults; rislab faults "{FAULTS[0].name}" shows one')
    return 0


def _records(records: list[Record], as_json: bool) -> int:
    import json

    from rislab.training.records import console, to_dict

    lines = (json.dumps(common.strict_json(to_dict(record))) for record in records) if as_json else console(records)
    print("\n".join(lines))
    return 0


def _show(fault: Fault, config: FaultRunConfig) -> int:
    from rislab.faults import comparison
    from rislab.training.records import epoch_line

    print(f"{fault.name}\n\n{fault.story}\n{fault.description}")
    if fault.reference:
        print(f"Seen in: {fault.reference}")
    if fault.mistaken_for:
        print(f"Mistaken for: {', '.join(fault.mistaken_for)}")
    print(f"\n{_coloured(fault.diff())}\n")
    held = True
    if fault.symptoms:
        print(f"{'measured':<50} {'correct':>12} {'faulty':>12}")
        for measured, symptom in zip(comparison.compare_symptoms(fault), fault.symptoms, strict=True):
            shown = symptom.shown_by(measured.faulty) and not symptom.shown_by(measured.correct)
            held &= shown
            print(f"{measured.line()}{'' if shown else '  not shown'}", flush=True)
    if fault.checks:
        print(f"Checks of the overfit ladder that turn red: {', '.join(fault.checks)}")
    if fault.conventions:
        print(f"Checks of the conventions report that turn red: {', '.join(fault.conventions)}")
    pair = comparison.compare_runs(fault, optimiser=config.optimiser, epochs=config.epochs)
    for title, loop in (("correct loop", pair.correct), ("with the fault", pair.faulty)):
        print(f"\n{title}, {pair.setting['optimiser']}, 84 scenes:")
        print("\n".join(epoch_line(end) for end in loop.epoch_records))
    if comparison.shows_in_training(fault):
        print("\nthe checkup of the faulty loop says:")
        print(comparison.diagnose_fault(fault, {**pair.setting, "epochs": min(config.epochs, EPOCHS)}))
    return 0 if held else 1


def _coloured(diff: str) -> str:
    """The diff in green and red where a terminal reads it."""
    colours = {"+": terminal.GREEN, "-": terminal.RED}
    return "\n".join(
        terminal.painted(line, colours[line[0]]) if line[:1] in colours else line for line in diff.split("\n")
    )
