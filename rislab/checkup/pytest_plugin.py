"""The plugin of pytest: a test whose training is watched, and which fails by what is found.

    def test_training(rislab_watch):
        train(epochs=1)  # your own code, unchanged

    @pytest.mark.rislab(accumulation_steps=4, fail_on="warning")
    def test_accumulation():
        train(epochs=1)

Neither torch nor the checkup is imported before a test asks for it.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from rislab.checkup.findings import Findings
    from rislab.checkup.output.report import CheckupReport
    from rislab.checkup.process_watch import ProcessWatch

FIXTURE = "rislab_watch"
DECLARATIONS = ("accumulation_steps", "mean", "clip_norm", "epochs", "scheduler_interval")
OTHERS = ("every", "select", "ignore", "fail_on", "allow_unjudged")


class WatchedTest:
    """The watch of one test.

    Args:
        watch: that is under way.
        folder: from which the paths of findings are seen.
        options: of the marker.
    """

    def __init__(self, watch: ProcessWatch, folder: str, options: dict[str, Any]) -> None:
        self.report: CheckupReport | None = None
        self._watch, self._folder, self._options = watch, folder, options

    def findings(self) -> Findings:
        """End the watch and judge what was trained so far; the test is then to say itself what fails it."""
        return self.end().findings

    def end(self, *, failed: bool = False) -> CheckupReport:
        """End the watch, once, and judge.

        Args:
            failed: whether an exception ended the test.
        """
        from rislab.checkup.output.report import CheckupReport
        from rislab.checkup.output.silencing import names_of, silence

        if self.report is None:
            findings = self._watch.last_findings(failed=failed, crashed=failed).relative_to(self._folder)
            labels = self._watch.labels()
            ended = "was broken off" if failed else "ran to its end"
            report = CheckupReport("pytest", self._watch.steps, labels, ended, failed, None, findings, [])
            select, ignore = (names_of(name, self._options.get(name, ())) for name in ("select", "ignore"))
            self.report = silence(report, self._folder, select=select, ignore=ignore)
        return self.report

    def complaint(self) -> str:
        """Why the test is to fail, "" if its training is sound."""
        from rislab.checkup.findings import assert_no_faults

        report = self.end()
        if not report.trained:
            return "no backward and no step was seen in this test: there is nothing to judge"
        options = {name: self._options[name] for name in ("fail_on", "allow_unjudged") if name in self._options}
        try:
            assert_no_faults(report.findings, **options)
        except AssertionError as error:
            return str(error)
        return ""


WATCHED = pytest.StashKey[WatchedTest]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option for a file."""
    group = parser.getgroup("rislab", "is the training loop telling the truth?")
    text = "write what the checkup found in all tests: .sarif, .xml (JUnit), else JSON"
    group.addoption("--rislab-report", metavar="FILE", default=None, help=text)


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known, and begin the report."""
    names = ", ".join(f"{name}=…" for name in (*DECLARATIONS, *OTHERS))
    config.addinivalue_line("markers", f"rislab({names}): watch the training of this test; faults fail it")
    path = config.getoption("rislab_report")
    # A worker of xdist hands its findings to the process that started it.
    if path and not hasattr(config, "workerinput"):
        if Path(path).is_dir():
            raise pytest.UsageError(f"--rislab-report is {path!r}, a folder; allowed: the path of a file")
        config.pluginmanager.register(FindingsReport(Path(path).absolute(), str(config.invocation_params.dir)))


def pytest_itemcollected(item: pytest.Item) -> None:
    """A test with the marker has the fixture."""
    names = getattr(item, "fixturenames", None)
    if names is not None and FIXTURE not in names and item.get_closest_marker("rislab") is not None:
        names.insert(0, FIXTURE)


@pytest.fixture
def rislab_watch(request: pytest.FixtureRequest) -> Iterator[WatchedTest]:
    """Watches whatever trains in this test, and fails it by faults; `.findings()` leaves it to the test what fails."""
    from rislab.checkup.process_watch import ProcessWatch
    from rislab.checkup.recording.windows import Declared

    options = _options_of(request.node)
    declared = Declared(**{"mean": ""} | {name: options[name] for name in DECLARATIONS if name in options})
    folder = str(request.config.invocation_params.dir)
    watch = ProcessWatch(every=options.get("every"), declared=declared)
    watched = request.node.stash[WATCHED] = WatchedTest(watch.__enter__(), folder, options)
    yield watched
    # A fixture after this one may have failed, so that the test was not run.
    watched.end(failed=True)


def _options_of(item: pytest.Item) -> dict[str, Any]:
    """What the markers of a test say; the nearest decides.

    Raises:
        InputError: for an unknown name, and for a value that is not allowed.
    """
    from rislab.checkup.findings import SEVERITIES
    from rislab.checkup.options import OPTIONS, check_options
    from rislab.checkup.output.silencing import names_of
    from rislab.errors import InputError, check_choice, check_fields

    markers = [*item.iter_markers("rislab")][::-1]
    options = {name: value for marker in markers for name, value in marker.kwargs.items()}
    if any(marker.args for marker in markers):
        raise InputError("pytest.mark.rislab has a value without a name; allowed: names, as accumulation_steps=4")
    check_fields("pytest.mark.rislab", options, (*DECLARATIONS, *OTHERS))
    check_options(**{name: value for name, value in options.items() if name in OPTIONS})
    for name in ("select", "ignore"):
        names_of(name, options.get(name, ()))
    check_choice("fail_on", options.get("fail_on", "fault"), SEVERITIES)
    check_choice("allow_unjudged", options.get("allow_unjudged", False), (False, True))
    return options


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Judge after the test, unless it has asked for the findings itself."""
    watched = item.stash.get(WATCHED, None)
    if watched is None:
        return (yield)
    failed = True
    try:
        yield
        failed = False
    finally:
        asked = watched.report is not None
        findings = watched.end(failed=failed).findings
        complaint = "" if asked or failed else watched.complaint()
        if findings and not complaint and not asked:
            # What is wrong with the loop may be why the test fails.
            item.add_report_section("call", "rislab", str(findings))
    if complaint:
        pytest.fail(complaint, pytrace=False)
    return None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """Hand the findings to FindingsReport; in a worker of xdist a report is all that gets through."""
    report = yield
    watched = item.stash.get(WATCHED, None)
    if watched is not None and watched.report is not None and call.when == "call":
        own = watched.report
        report.rislab = {
            "steps": own.steps,
            "optimisers": own.optimisers,
            "findings": [asdict(finding) for finding in own.findings],
            "silenced": [asdict(one.finding) | {"by": one.by} for one in own.silenced],
        }
    return report


class FindingsReport:
    """Collects the findings of all tests, and writes them at the end to a file, whose name says the format."""

    def __init__(self, path: Path, folder: str) -> None:
        self._path, self._folder = path, folder
        self._tests: list[tuple[str, dict[str, Any]]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember what a test found."""
        own = getattr(report, "rislab", None)
        if own is not None:
            self._tests.append((report.nodeid, own))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Write the file, and say so."""
        from rislab.checkup.output.formats import FORMATS, Setting, format_of_file

        report = self._report()
        setting = Setting(self._folder, "fault", report.exit_code())
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(FORMATS[format_of_file(self._path)](report, setting) + "\n", encoding="utf-8")
        count = len(self._tests)
        text = f"{count} watched test{'' if count == 1 else 's'}. {report.verdict}".rstrip()
        terminalreporter.write_line(f"rislab: {os.path.relpath(self._path, self._folder)}: {text}")

    def _report(self) -> CheckupReport:
        from rislab.checkup.findings import Finding, Findings
        from rislab.checkup.output.report import CheckupReport, Silenced

        rows = [(Finding.from_dict(plain), test) for test, own in self._tests for plain in own["findings"]]
        findings = Findings(finding for finding, _ in rows)
        tests = {id(finding): test for finding, test in rows}
        hidden = [{**plain} for _, own in self._tests for plain in own["silenced"]]
        silenced = tuple(Silenced(Finding.from_dict(plain), by) for plain in hidden for by in [plain.pop("by")])
        optimisers = list(dict.fromkeys(label for _, own in self._tests for label in own["optimisers"]))
        steps = sum(own["steps"] for _, own in self._tests)
        names = tuple(tests[id(finding)] for finding in findings)
        return CheckupReport("pytest", steps, optimisers, "ran to its end", False, None, findings, [], silenced, names)
