"""`rislab faults`: the list, one fault, its records, and the key of the quiz."""

from __future__ import annotations

import json

import pytest

from rislab.cli.main import main
from rislab.faults import catalogue, quiz


def test_the_list_names_every_fault(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["faults"]) == 0
    said = " ".join(capsys.readouterr().out.split())  # lines are folded to the terminal
    assert all(fault.name in said and fault.description in said for fault in catalogue.FAULTS)
    assert f"{len(catalogue.FAULTS)} faults" in said
    assert main(["faults", "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert {name for family in plain.values() for name in family} == set(catalogue.faults_by_name())


@pytest.mark.slow
def test_a_fault_is_shown_with_its_diff_and_what_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    fault = catalogue.find_fault("never divided")
    assert main(["faults", fault.name, "--epochs", "1"]) == 0
    said = capsys.readouterr().out
    assert fault.story in said and fault.diff() in said and fault.reference in said
    (line, *_) = [line for line in said.splitlines() if line.startswith("α of full windows")]
    correct, ill = (float(number) for number in line.split()[-2:])
    assert correct == pytest.approx(1, abs=1e-4) and ill == pytest.approx(4, abs=1e-3)
    assert said.count("Epoch 001/001") == 2


@pytest.mark.slow
def test_the_exit_code_says_when_a_fault_does_not_show(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import dataclasses

    # An edit without effect: the sign of the real fault cannot show.
    harmless = dataclasses.replace(
        catalogue.find_fault("never divided"), after=catalogue.find_fault("never divided").before + "\n"
    )
    monkeypatch.setattr(catalogue, "find_fault", lambda name: harmless)
    assert main(["faults", "never divided", "--epochs", "1"]) == 1
    assert "not shown" in capsys.readouterr().out


@pytest.mark.slow
def test_the_records_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["faults", "backward after the batch loop", "--records", "--epochs", "1"]) == 0
    assert "[LOSS]" in capsys.readouterr().out
    assert main(["faults", "backward after the batch loop", "--json", "--epochs", "1", "--optimiser", "sgd"]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert told[-1]["kind"] == "epoch" and told[-1]["counters"]["backwards"] < told[-1]["counters"]["forwards"]


@pytest.mark.slow
def test_records_are_json_though_a_gradient_is_no_number(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["faults", "singular vectors differentiated", "--json", "--epochs", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    first, *_ = [json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON")) for line in lines]
    assert "nan" in first["grad_norm"].values()


def test_the_key_of_a_quiz_is_the_same_each_time(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["faults", "--quiz-key", "3"]) == 0
    first = capsys.readouterr().out
    assert [line.split(". ", 1)[1] for line in first.splitlines()] == quiz.answer_key(3)
    assert main(["faults", "--quiz-key", "3"]) == 0
    assert capsys.readouterr().out == first
    assert quiz.answer_key(3) != quiz.answer_key(4)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["never devided"], "did you mean 'never divided'"),
        (["never divided", "--optimiser", "adagrad"], "optimiser is 'adagrad'; allowed: 'adam', 'sgd'"),
        (["never divided", "--epochs", "0"], "epochs is 0"),
        (["--records"], "--records is given without a fault"),
        (["--quiz-key", "-1"], "quiz_key is -1"),
    ],
)
def test_bad_input_is_named(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["faults", *arguments]) == 2
    assert said in capsys.readouterr().err
