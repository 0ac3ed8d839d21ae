"""Which findings do not count: not selected, silenced by a comment on their line, or known by a baseline.

A comment `# rislab: ignore[C3]` stands on the line that `where` names; without brackets it silences all findings there.
A baseline knows a finding by code, name, file and the text of its line, so that moved lines change nothing.
"""

from __future__ import annotations

import ast
import difflib
import json
import linecache
import os
import re
import tokenize
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from rislab.checkup.findings import Finding, Findings, is_unjudged
from rislab.checkup.output.report import CheckupReport, Silenced
from rislab.checkup.rules import RULES
from rislab.errors import InputError

COMMENT = re.compile(r"#\s*rislab:\s*ignore(?:\[([^\]]*)\])?")
# Of the file that holds a baseline, and its most characters.
VERSION, LONGEST = 1, 2**23


class KnownFinding(NamedTuple):
    """What a baseline knows a finding by."""

    code: str  # of its rule
    name: str  # its own
    file: str  # as seen from the working directory, "" if there is none
    text: str  # of its line, without the space around it


def names_of(field: str, words: str | Sequence[str]) -> tuple[str, ...]:
    """Names that choose findings: codes, the prefixes C and P, or names of rules and findings.

    Args:
        field: that holds them, for a message.
        words: the names, or one text in which commas are between them.

    Raises:
        InputError: for a name that no rule has.
    """
    given = words.split(",") if isinstance(words, str) else words
    names = tuple(_spelled(word.strip()) for word in given if word.strip())
    if given and not names and words:
        raise InputError(f"{field} is {words!r}; allowed: names, with commas between them")
    for name in names:
        if name not in _known_names():
            close = difflib.get_close_matches(name, _known_names(), 1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            allowed = "codes such as C3, the prefixes C and P, names of rules and findings"
            raise InputError(f"{field} is {name!r}{hint}; allowed: {allowed}")
    return names


def _spelled(word: str) -> str:
    """A word with the capitals of the name that it means."""
    return {name.lower(): name for name in _known_names()}.get(word.lower(), word)


def _known_names() -> set[str]:
    prefixes = {code[0] for code in RULES}
    return prefixes.union(RULES, (rule.name for rule in RULES.values()), *(rule.fixes for rule in RULES.values()))


def chosen_by(names: Iterable[str], finding: Finding) -> bool:
    """Whether one of the names means the finding."""
    rule = RULES.get(finding.code)
    return any(
        name in (finding.code, finding.name, finding.code[:1], rule.name if rule is not None else "") for name in names
    )


class Baseline:
    """Findings that are known and do not count.

    Args:
        known: the findings; one that was made twice is there twice.
    """

    def __init__(self, known: Iterable[KnownFinding] = ()) -> None:
        self.known = Counter(known)

    @classmethod
    def of(cls, findings: Findings, folder: str) -> Baseline:
        """Of all findings but those that say what could not be judged."""
        return cls(known_finding(one, folder) for one in findings if not is_unjudged(one))

    @classmethod
    def from_file(cls, path: str) -> Baseline:
        """Read what text() made.

        Raises:
            InputError: for a file that cannot be read or is no baseline.
        """
        try:
            with open(path, encoding="utf-8") as file:
                text = file.read(LONGEST + 1)
            if len(text) > LONGEST:
                raise ValueError(f"it has more than {LONGEST >> 20} million characters")
            plain = json.loads(text)
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"baseline {path} could not be read: {error}; --write-baseline makes it") from error
        try:
            if plain["version"] == VERSION:
                return cls._of_rows(plain["findings"])
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise InputError(f"baseline {path} is none; allowed: a file that --write-baseline made") from error
        raise InputError(f"baseline {path} has version {repr(plain['version'])[:20]}; allowed: {VERSION}")

    @classmethod
    def _of_rows(cls, rows: Any) -> Baseline:
        baseline = cls()
        for row in rows:
            baseline.known[KnownFinding(*(str(row[name]) for name in KnownFinding._fields))] += int(row["count"])
        return baseline

    def text(self) -> str:
        """JSON, sorted, so that a change of one finding is a change of one row."""
        rows = [known._asdict() | {"count": count} for known, count in sorted(self.known.items())]
        return json.dumps({"version": VERSION, "findings": rows}, indent=2, ensure_ascii=False) + "\n"


def file_and_line(finding: Finding) -> tuple[str, int]:
    """File and line of a finding; ("", 0) if it has none."""
    file, _, line = finding.where.rpartition(":")
    return (file, int(line)) if file and line.isdigit() else (finding.where, 0)


def line_text(finding: Finding, folder: str) -> str:
    """The text of the line of a finding, whose `where` is as seen from a folder; "" if it has none."""
    file, line = file_and_line(finding)
    path = os.path.join(folder, file)
    try:
        linecache.checkcache(path)
        return linecache.getline(path, line).strip() if line else ""
    except ValueError:  # a name that no file can have
        return ""


def known_finding(finding: Finding, folder: str) -> KnownFinding:
    """What a baseline knows a finding by."""
    return KnownFinding(finding.code, finding.name, file_and_line(finding)[0], line_text(finding, folder))


def silence(
    report: CheckupReport,
    folder: str,
    *,
    select: Sequence[str] = (),
    ignore: Sequence[str] = (),
    baseline: Baseline | None = None,
) -> CheckupReport:
    """The report with those findings silenced that do not count.

    Args:
        report: with paths as seen from `folder`.
        folder: working directory.
        select: names of the findings that count, as names_of() gives them; all if there are none.
        ignore: names of the findings that do not.
        baseline: of findings that are known.
    """
    left = Counter() if baseline is None else Counter(baseline.known)
    rows: list[tuple[Finding, str]] = []
    silenced: list[Silenced] = []
    remarks = list(report.remarks)
    for finding, test in zip(report.findings, report.tests or [""] * len(report.findings), strict=True):
        known = known_finding(finding, folder)
        names, unknown = _commented(known.text)
        if unknown:
            remarks.append(f"{finding.where}: {unknown!r} in its comment is no code and no name: it silences nothing")
        if (select and not chosen_by(select, finding)) or chosen_by(ignore, finding):
            silenced.append(Silenced(finding, "selection"))
        elif names is not None and (not names or chosen_by(names, finding)):
            silenced.append(Silenced(finding, "comment"))
        elif left[known] > 0:
            left[known] -= 1
            silenced.append(Silenced(finding, "baseline"))
        else:
            rows.append((finding, test))
    return replace(
        report,
        findings=Findings(finding for finding, _ in rows),
        tests=tuple(test for _, test in rows) if report.tests else (),
        remarks=list(dict.fromkeys(remarks)),
        silenced=(*report.silenced, *silenced),
    )


def unused_comments(report: CheckupReport, folder: str) -> list[str]:
    """Sentences on comments that silenced nothing in a run that came to its end.

    They are those of the script, and of other files where the loop ran: in the functions, classes and loops of a module
    that hold a recorded loss or step. A rule that could not judge the run says nothing of its comments.

    Args:
        report: as silence() gives it without `select` and `ignore`, which would silence a finding before its comment.
        folder: working directory.
    """
    if report.failed or report.code is None or not report.trained:
        return []
    used: dict[tuple[str, int], list[Finding]] = {}
    for finding, by in report.silenced:
        file, line = file_and_line(finding)
        if by == "comment":
            used.setdefault((os.path.realpath(os.path.join(folder, file)), line), []).append(finding)
    sentences: list[str] = []
    for file, lines in _commented_files(report, folder).items():
        path = os.path.realpath(os.path.join(folder, file))
        for line, text in _comments(path):
            if lines is None or line in lines:
                sentences += _unused_names(
                    text, used.get((path, line), []), report.findings.unjudged, f"{file}:{line}:"
                )
    return sentences


def _commented_files(report: CheckupReport, folder: str) -> dict[str, set[int] | None]:
    """Files whose comments may be of no use, with the lines to look at; None for all of them."""
    files: dict[str, set[int] | None] = {}
    script = os.path.realpath(os.path.join(folder, report.script))
    if os.path.isfile(script):
        files[report.script] = None
    start = folder.rstrip(os.sep) + os.sep
    for path in sorted({place.rpartition(":")[0] for place in report.places}):
        if os.path.realpath(path) != script:
            ran = {int(line) for file, _, line in (place.rpartition(":") for place in report.places) if file == path}
            files[path.removeprefix(start)] = _lines_around(path, ran)
    return files


def _lines_around(path: str, ran: set[int]) -> set[int]:
    """The lines of those statements of a module that hold one of some lines."""
    try:
        with tokenize.open(path) as file:
            statements = ast.parse(file.read()).body
    except (OSError, SyntaxError, ValueError, RecursionError):
        return set()
    spans = [range(one.lineno, (one.end_lineno or one.lineno) + 1) for one in statements]
    return {line for span in spans if not ran.isdisjoint(span) for line in span}


def _unused_names(text: str, used: list[Finding], unjudged: Sequence[Finding], here: str) -> list[str]:
    """Sentences on what a comment names and did not silence."""
    names, _ = _commented(text)
    if names == [] and not used and not unjudged:
        return [f"{here} its comment silenced nothing in this run"]
    sentences = []
    for name in names or ():
        if name not in _known_names():
            sentences.append(f"{here} {name!r} in its comment is no code and no name: it silences nothing")
        elif not any(chosen_by([name], finding) for finding in (*unjudged, *used)):
            sentences.append(f"{here} {name!r} in its comment silenced nothing in this run")
    return sentences


def _comments(path: str) -> list[tuple[int, str]]:
    """Comments of a Python file with their lines, [] of a file that is none."""
    try:
        with tokenize.open(path) as file:
            tokens = list(tokenize.generate_tokens(file.readline))
    except (OSError, SyntaxError, UnicodeDecodeError, tokenize.TokenError):
        return []
    return [(token.start[0], token.string) for token in tokens if token.type == tokenize.COMMENT]


def _commented(text: str) -> tuple[list[str] | None, str]:
    """The names in the comment of a line, None if it has no such comment; and the first name that no rule has."""
    match = COMMENT.search(text)
    if match is None:
        return None, ""
    if match[1] is None:
        return [], ""
    names = [_spelled(word.strip()) for word in match[1].split(",")]
    return names, next((name for name in names if name not in _known_names()), "")
