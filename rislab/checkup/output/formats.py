"""A report of the checkup for programs: JSON, annotations of GitHub, SARIF 2.1.0, JUnit XML.

The JSON is described by `report.schema.json` beside this file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

import rislab
from rislab.checkup.findings import Finding, is_unjudged
from rislab.checkup.output.report import CheckupReport
from rislab.checkup.output.silencing import file_and_line, known_finding
from rislab.checkup.rules import RULES, Code
from rislab.errors import one_line

SARIF_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
VERSION = 1
LEVELS = {"fault": "error", "warning": "warning", "note": "note"}
COMMANDS = {"fault": "error", "warning": "warning", "note": "notice"}
SUPPRESSIONS = {"comment": "inSource", "baseline": "external", "selection": "external"}


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a format is written with.

    Args:
        folder: working directory, from which the paths of the report are seen.
        fail_on: the mildest severity that fails.
        exit_code: of the command.
    """

    folder: str
    fail_on: str
    exit_code: int


def to_json(report: CheckupReport, setting: Setting) -> str:
    """One object with the run, its findings, and what was silenced."""
    tests = report.tests or [""] * len(report.findings)
    plain = {
        "version": VERSION,
        "rislab": rislab.__version__,
        "script": report.script,
        "steps": report.steps,
        "optimisers": report.optimisers,
        "ended": report.ended,
        "failed": report.failed,
        "code": report.code,
        "remarks": report.remarks,
        "findings": [
            _plain(finding) | ({"test": test} if test else {})
            for finding, test in zip(report.findings, tests, strict=True)
        ],
        "silenced": [_plain(one.finding) | {"by": one.by} for one in report.silenced],
        "faults": len(report.findings.faults),
        "warnings": len(report.findings.of("warning")) - len(report.findings.faults),
        "notes": len(report.findings.of("note")) - len(report.findings.of("warning")),
        "unjudged": len(report.findings.unjudged),
        "verdict": report.verdict,
        "exit_code": setting.exit_code,
    }
    return json.dumps(plain, indent=2)


def _plain(finding: Finding) -> dict[str, Any]:
    file, line = file_and_line(finding)
    return dataclasses.asdict(finding) | {"docs": finding.docs, "file": file, "line": line}


def to_github(report: CheckupReport, setting: Setting) -> str:
    """Commands of a workflow, each an annotation of a line; the verdict comes last."""
    lines = []
    for finding in report.findings:
        file, line = file_and_line(finding)
        where = {"file": file} | ({"line": str(line)} if line else {}) if file else {}
        given = {**where, "title": f"{finding.code} {finding.name}"}
        properties = ",".join(f"{name}={_escaped(value, ':,')}" for name, value in given.items())
        text = finding.evidence + (f"\nfix: {finding.fix}" if finding.fix else "")
        lines.append(f"::{COMMANDS[finding.severity]} {properties}::{_escaped(text)}")
    if broken := _broken(report):
        lines.append(f"::error title=rislab checkup::{_escaped(broken)}")
    return "\n".join([*lines, report.verdict]).rstrip("\n")


def _broken(report: CheckupReport) -> str:
    """Why there is no full account of a run, "" if there is."""
    if report.failed:
        return f"{report.script} {report.ended}"
    return "" if report.trained else f"{report.script}: no backward and no step was seen: there is nothing to judge"


def _escaped(text: str, more: str = "") -> str:
    text = _printable(text)
    for letter in ("%", "\r", "\n", *more):
        text = text.replace(letter, f"%{ord(letter):02X}")
    return text


def to_sarif(report: CheckupReport, setting: Setting) -> str:
    """A log of the Static Analysis Results Interchange Format; what could not be judged is of the kind "open"."""
    tests = report.tests or [""] * len(report.findings)
    results = [_sarif_result(one, report, setting, test) for one, test in zip(report.findings, tests, strict=True)]
    for silenced in report.silenced:
        suppression = {"kind": SUPPRESSIONS[silenced.by], "justification": f"silenced by {silenced.by}"}
        results.append(_sarif_result(silenced.finding, report, setting) | {"suppressions": [suppression]})
    notifications = [{"level": "note", "message": {"text": text}} for text in report.remarks]
    if broken := _broken(report):
        notifications.insert(0, {"level": "error", "message": {"text": broken}})
    invocation = {
        "executionSuccessful": not broken,
        "exitCode": setting.exit_code,
        "toolExecutionNotifications": notifications,
    }
    driver = {"name": "rislab", "version": rislab.__version__, "rules": [_sarif_rule(code) for code in RULES]}
    runs = [{"tool": {"driver": driver}, "invocations": [invocation], "results": results}]
    return json.dumps({"$schema": SARIF_SCHEMA, "version": "2.1.0", "runs": runs}, indent=2)


def _sarif_rule(code: str) -> dict[str, Any]:
    rule = RULES[code]
    plain: dict[str, Any] = {
        "id": code,
        "name": "".join(word.capitalize() for word in Code(code).name.split("_")),
        "shortDescription": {"text": rule.name},
        "fullDescription": {"text": rule.what},
        "help": {"text": f"{rule.why}\nTo mend it: {rule.fix}."},
        "defaultConfiguration": {"level": LEVELS[rule.severity]},
    }
    return plain | ({"helpUri": rule.reference} if rule.reference else {})


def _sarif_result(finding: Finding, report: CheckupReport, setting: Setting, test: str = "") -> dict[str, Any]:
    file, line = file_and_line(finding)
    known = known_finding(finding, setting.folder)
    region = {"region": {"startLine": line} | ({"snippet": {"text": known.text}} if known.text else {})} if line else {}
    # A reader such as GitHub shows nothing without a file.
    physical = {"artifactLocation": {"uri": _uri(file or _script_file(report, setting))}, **region}
    location: dict[str, Any] = {"physicalLocation": physical}
    if test:
        location["logicalLocations"] = [{"fullyQualifiedName": test, "kind": "function"}]
    text = f"{finding.name}: {finding.evidence}" + (f"\nfix: {finding.fix}" if finding.fix else "")
    level = {"kind": "open", "level": "none"} if is_unjudged(finding) else {"level": LEVELS[finding.severity]}
    return {
        "ruleId": finding.code,
        "ruleIndex": list(RULES).index(finding.code),
        **level,
        "message": {"text": text},
        "locations": [location],
        "partialFingerprints": {
            "findingLine/v1": hashlib.sha256("\0".join(known).encode(errors="backslashreplace")).hexdigest()
        },
    }


def _script_file(report: CheckupReport, setting: Setting) -> str:
    """The file of a script or of a module, if it is below the working directory, else its name."""
    named = [report.script, f"{report.script.replace('.', '/')}.py"]
    return next((name for name in named if Path(setting.folder, name).is_file()), report.script)


def _uri(file: str) -> str:
    return f"{'file://' if Path(file).is_absolute() else ''}{quote(file, errors='backslashreplace')}"


def to_junit(report: CheckupReport, setting: Setting) -> str:
    """A suite of JUnit with a case for each finding; what fails is a failure, what was not judged is skipped."""
    failing = report.findings.of(setting.fail_on)
    broken = _broken(report)
    tests = report.tests or [report.script] * len(report.findings)
    suite = ElementTree.Element("testsuite", name="rislab")
    for finding, test in zip(report.findings, tests, strict=True):
        case = _junit_case(suite, f"{finding.code} {finding.name}", test)
        what = "failure" if finding in failing else "skipped" if is_unjudged(finding) else "system-out"
        part = ElementTree.SubElement(case, what)
        if what != "system-out":
            part.attrib.update(type=finding.severity, message=_printable(finding.evidence))
        part.text = _printable(str(finding))
    if broken:
        case = _junit_case(suite, "the script runs", report.script)
        ElementTree.SubElement(case, "error", type="error", message=_printable(broken))
    elif not report.findings:
        _junit_case(suite, "all checks", report.script)
    counts = {"tests": len(suite), "failures": len(failing), "errors": int(bool(broken))}
    suite.attrib.update(
        {name: str(count) for name, count in counts.items()}, skipped=str(len(report.findings.unjudged))
    )
    if report.remarks:
        ElementTree.SubElement(suite, "system-out").text = _printable("\n".join(report.remarks))
    suites = ElementTree.Element("testsuites", name="rislab")
    suites.append(suite)
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True)


def _junit_case(suite: ElementTree.Element, name: str, subject: str) -> ElementTree.Element:
    return ElementTree.SubElement(suite, "testcase", name=_printable(name), classname=_printable(subject), time="0")


def _printable(text: str) -> str:
    """The text with its control characters escaped, most of which XML has no place for; line feeds stay."""
    return "\n".join(map(one_line, text.split("\n")))


FORMATS: Mapping[str, Callable[[CheckupReport, Setting], str]] = {
    "json": to_json,
    "github": to_github,
    "sarif": to_sarif,
    "junit": to_junit,
}
SUFFIXES = {".sarif": "sarif", ".xml": "junit"}


def format_of_file(path: Path, wanted: str = "json") -> str:
    """The format that a file is written in: by its name, else the wanted one if it is for files, else JSON."""
    return SUFFIXES.get(path.suffix, wanted if wanted in ("json", "sarif", "junit") else "json")
