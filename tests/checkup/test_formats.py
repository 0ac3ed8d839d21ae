"""Reports for programs, each held against its published schema, with texts that need escaping."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest

from rislab.checkup.findings import Finding, Findings, as_fault, as_note, as_warning
from rislab.checkup.output import formats
from rislab.checkup.output.formats import FORMATS, Setting, format_of_file
from rislab.checkup.output.report import CheckupReport, Silenced
from rislab.checkup.rules import RULES, Code

SCHEMAS = Path(__file__).parent / "schemas"
OWN = Path(formats.__file__).with_name("report.schema.json")
AWKWARD = 'α = 4 < 5 & "6", 7: 100 %\nsecond line \x1b[31m \u2028'


def findings() -> Findings:
    return Findings(
        [
            as_note(Code.LOSSES, "not judged", "nobody knows"),
            as_note(Code.CLIPPING, "clipping assumed", "at 1"),
            as_warning(Code.ZEROING, "gradients of another loss", AWKWARD, "a b/train.py:7"),
            as_fault(Code.GRADIENT_SCALE, "never divided", AWKWARD, "a b/train.py:3", ("gradient scale",)),
            as_fault(Code.WINDOW_SIZE, "stepped twice", "2", "/else/where.py:9"),
        ]
    )


def report(folder: Path, **changes: Any) -> CheckupReport:
    (folder / "a b").mkdir(exist_ok=True)
    (folder / "a b" / "train.py").write_text("\n\nloss.backward()\n" + "\n" * 5)
    silenced = tuple(Silenced(findings()[0], by) for by in ("comment", "baseline", "selection"))
    whole = CheckupReport(
        "a b/train.py", 4, ["SGD"], "ran to its end", False, 0, findings(), ["a remark \x00"], silenced
    )
    return replace(whole, **changes)


EMPTY = Findings()
REPORTS: dict[str, dict[str, Any]] = {
    "all kinds": {},
    "clean": {"findings": EMPTY, "silenced": (), "remarks": []},
    "crashed": {"findings": EMPTY, "silenced": (), "failed": True, "ended": "crashed: ZeroDivisionError", "code": 1},
    "nothing trained": {"findings": EMPTY, "silenced": (), "steps": 0},
    "stopped": {"code": None, "ended": "was stopped"},
    "module": {"script": "a b.train"},
    "tests": {"script": "pytest", "tests": tuple(f"test_a.py::test[{i}]" for i in range(5))},
}


def written(name: str, folder: Path, changes: dict[str, Any]) -> str:
    whole = report(folder, **changes)
    return FORMATS[name](whole, Setting(str(folder), "fault", whole.exit_code()))


@pytest.fixture(scope="module")
def checks() -> dict[str, Callable[[str], None]]:
    import xmlschema  # a hundred modules

    sarif = jsonschema.Draft4Validator(json.loads((SCHEMAS / "sarif-2.1.0-rtm.5.json").read_text()))
    own = jsonschema.Draft202012Validator(json.loads(OWN.read_text()))
    own.check_schema(own.schema)
    junit = xmlschema.XMLSchema(SCHEMAS / "junit-10.xsd")
    return {
        "sarif": lambda text: sarif.validate(json.loads(text)),
        "json": lambda text: own.validate(json.loads(text)),
        "junit": lambda text: junit.validate(ElementTree.fromstring(text)),
    }


@pytest.mark.parametrize("case", REPORTS)
@pytest.mark.parametrize("name", ["json", "sarif", "junit"])
def test_a_report_is_valid_by_its_schema(
    name: str, case: str, tmp_path: Path, checks: dict[str, Callable[[str], None]]
) -> None:
    checks[name](written(name, tmp_path, REPORTS[case]))


def test_the_schemas_refuse_what_is_wrong(tmp_path: Path, checks: dict[str, Callable[[str], None]]) -> None:
    sarif, plain = (json.loads(written(name, tmp_path, {})) for name in ("sarif", "json"))
    sarif["runs"][0]["results"][0]["level"] = "fault"
    with pytest.raises(jsonschema.ValidationError):
        checks["sarif"](json.dumps(sarif))
    plain["findings"][0]["severity"] = "error"
    with pytest.raises(jsonschema.ValidationError):
        checks["json"](json.dumps(plain))
    with pytest.raises(ValueError, match="not allowed"):
        checks["junit"](written("junit", tmp_path, {}).replace("classname", "class"))


def test_json_holds_what_was_found(tmp_path: Path) -> None:
    plain = json.loads(written("json", tmp_path, {}))
    assert [plain[name] for name in ("faults", "warnings", "notes", "unjudged")] == [2, 1, 1, 1]
    first = plain["findings"][0]
    assert (first["file"], first["line"], first["evidence"]) == ("a b/train.py", 3, AWKWARD)
    assert [one["by"] for one in plain["silenced"]] == ["comment", "baseline", "selection"]
    assert plain["exit_code"] == 1 and plain["verdict"].startswith("Found 2 faults, 1 warning, 1 note. Not judged: C9.")
    tests = json.loads(written("json", tmp_path, REPORTS["tests"]))
    assert [one["test"] for one in tests["findings"]] == list(REPORTS["tests"]["tests"])


def test_sarif_names_rule_line_and_kind(tmp_path: Path) -> None:
    (run,) = json.loads(written("sarif", tmp_path, {}))["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == list(RULES)
    results = run["results"]
    assert all(rules[result["ruleIndex"]]["id"] == result["ruleId"] for result in results)
    own = [result for result in results if "suppressions" not in result]
    assert [(one["level"], one.get("kind")) for one in own] == [
        ("error", None), ("error", None), ("warning", None), ("none", "open"), ("note", None),
    ]  # fmt: skip
    physical = own[0]["locations"][0]["physicalLocation"]
    assert physical["artifactLocation"]["uri"] == "a%20b/train.py"
    assert physical["region"] == {"startLine": 3, "snippet": {"text": "loss.backward()"}}
    assert own[1]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "file:///else/where.py"
    # Without a place, the script itself, whether it is a file or a module.
    assert own[3]["locations"][0]["physicalLocation"] == {"artifactLocation": {"uri": "a%20b/train.py"}}
    (module,) = json.loads(written("sarif", tmp_path, REPORTS["module"]))["runs"]
    assert module["results"][3]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "a%20b/train.py"
    assert [one["suppressions"][0]["kind"] for one in results if "suppressions" in one] == [
        "inSource", "external", "external",
    ]  # fmt: skip
    assert run["invocations"][0]["executionSuccessful"] and run["invocations"][0]["exitCode"] == 1
    (crashed,) = json.loads(written("sarif", tmp_path, REPORTS["crashed"]))["runs"]
    assert not crashed["invocations"][0]["executionSuccessful"]


def test_a_fingerprint_does_not_change_where_lines_move(tmp_path: Path) -> None:
    before = json.loads(written("sarif", tmp_path, {}))["runs"][0]["results"][0]
    moved = Findings([as_fault(Code.GRADIENT_SCALE, "never divided", "α = 5", "a b/train.py:5")])
    whole = report(tmp_path, findings=moved)
    (tmp_path / "a b" / "train.py").write_text("\n\n\n\n    loss.backward()\n")
    after = json.loads(FORMATS["sarif"](whole, Setting(str(tmp_path), "fault", 1)))["runs"][0]["results"][0]
    assert after["partialFingerprints"] == before["partialFingerprints"]


def test_junit_counts_what_fails(tmp_path: Path) -> None:
    def suite(changes: dict[str, Any], fail_on: str = "fault") -> ElementTree.Element:
        whole = report(tmp_path, **changes)
        text = FORMATS["junit"](whole, Setting(str(tmp_path), fail_on, 1))
        return ElementTree.fromstring(text)[0]

    def counts(element: ElementTree.Element) -> list[int]:
        return [int(element.attrib[name]) for name in ("tests", "failures", "errors", "skipped")]

    assert counts(suite({})) == [5, 2, 0, 1]
    assert counts(suite({}, "warning")) == [5, 3, 0, 1]
    assert counts(suite({}, "note")) == [5, 4, 0, 1]
    assert counts(suite(REPORTS["clean"])) == [1, 0, 0, 0]
    assert counts(suite(REPORTS["crashed"])) == counts(suite(REPORTS["nothing trained"])) == [1, 0, 1, 0]
    assert suite(REPORTS["tests"])[0].attrib["classname"] == "test_a.py::test[0]"


def test_annotations_of_github_are_escaped(tmp_path: Path) -> None:
    lines = written("github", tmp_path, {}).split("\n")
    assert len(lines) == 6 and lines[-1].startswith("Found 2 faults")
    assert lines[0].startswith("::error file=a b/train.py,line=3,title=C1 never divided::α = 4")
    assert r"100 %25%0Asecond line \x1b[31m%0Afix: multiply" in lines[0]
    assert [line.split(" ")[0] for line in lines[:-1]] == ["::error", "::error", "::warning", "::notice", "::notice"]
    assert "file=" not in lines[3]
    colon = Findings([Finding("C1", "never divided", "fault", "", where="a:b,c%.py:1")])
    assert "file=a%3Ab%2Cc%25.py,line=1," in written("github", tmp_path, {"findings": colon})
    assert "crashed: ZeroDivisionError" in written("github", tmp_path, REPORTS["crashed"])
    assert "nothing to judge" in written("github", tmp_path, REPORTS["nothing trained"]).splitlines()[-1]


@pytest.mark.parametrize("name", ["text", *FORMATS])
def test_no_format_lets_a_name_reach_the_terminal_or_break_its_line(name: str, tmp_path: Path) -> None:
    """Tensors, files and scripts have names of anybody's choice: each letter that cannot be printed, once in each."""
    letters = "".join(filter(lambda letter: not letter.isprintable(), map(chr, range(0x10000))))
    own = replace(findings()[0], evidence=letters, where=f"{letters}.py:1", aliases=(letters,))
    odd = report(
        tmp_path, findings=Findings([own]), remarks=[letters], script=letters, optimisers=[letters], silenced=()
    )
    text = str(odd) if name == "text" else FORMATS[name](odd, Setting(str(tmp_path), "fault", 1))
    assert all(line.isprintable() for line in text.split("\n"))
    assert text.encode()
    assert len([line for line in str(odd).split("\n") if line]) == 8


@pytest.mark.parametrize(
    ("name", "wanted", "format"),
    [
        ("a.sarif", "text", "sarif"), ("a.xml", "json", "junit"), ("a.json", "text", "json"), ("a", "github", "json"),
        ("a.json", "sarif", "sarif"), ("a.txt", "junit", "junit"),
    ],
)  # fmt: skip
def test_the_name_of_a_file_says_its_format(name: str, wanted: str, format: str) -> None:
    assert format_of_file(Path(name), wanted) == format
