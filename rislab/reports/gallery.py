"""The gallery: named parameter sets (`reports/*.yaml`), a report of each, and one page that shows them side by side.

They stand beside the folder of the notebooks, which is that of notebooks.available() unless another is named.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rislab import files
from rislab.errors import InputError, check_number, did_you_mean
from rislab.reports import figure_content, html_export, miniatures, notebooks, runner
from rislab.reports.processes import in_processes

KEYS = ("notebook", "title", "parameters", "figure", "seconds")
VERDICTS = ("passed", "failed", "partial", "not run")


@dataclass(frozen=True)
class NamedSet:
    """One file `reports/<name>.yaml`."""

    name: str  # of the set and of its report
    notebook: str  # name of its report, as notebooks.available() lists it
    path: Path  # of the notebook
    title: str  # what the set asks, one sentence
    parameters: dict[str, object]  # values that the file gives
    changed: dict[str, tuple[object, object]]  # those of them that differ from the defaults, with these
    figure: int  # which figure of the report stands for it in the gallery, counted from 1
    seconds: int = 0  # of the processor, about, so that the longest begin first; 0 if nobody measured it

    def run(
        self,
        values: Mapping[str, object],
        out: Path,
        *,
        progress: bool = True,
        environment: Mapping[str, str] | None = None,
    ) -> runner.Report:
        """Run the notebook with the set's values, and those given beyond them; see runner.run_notebook()."""
        check = None
        if values:  # the set's own values were checked when it was read
            from rislab.reports import parameter_checks

            check = parameter_checks.check_for(self.notebook)
        return runner.run_notebook(
            self.notebook,
            {**self.parameters, **values},
            out=out,
            folder=self.path.parent,
            check=check,
            progress=progress,
            saved_as=self.name,
            question=self.question(values),
            environment=environment,
        )

    def question(self, values: Mapping[str, object]) -> str:
        """The title, if the set runs with these values as its file has it; else which of them are others.

        Args:
            values: that are given beyond the set's own.
        """
        defaults = notebooks.parameters(self.path)
        own = {name: self.parameters.get(name, one.default) for name, one in defaults.items()}
        other = [
            f"{name} = {value!r} in place of {own[name]!r}" for name, value in values.items() if value != own.get(name)
        ]
        return self.title if not other or not self.title else f"{self.name} with {', '.join(other)}"


def set_files(folder: Path | None = None) -> dict[str, Path]:
    """The files of the named sets, by name: `reports/*.yaml` beside the folder of the notebooks; none is read."""
    return {path.stem: path for path in sorted(_folder(folder).glob("*.yaml"))}


def _folder(folder: Path | None) -> Path:
    return next(iter(notebooks.available(folder).values())).parent.parent / "reports"


def find_set(name: str, folder: Path | None = None) -> NamedSet:
    """The set of that name; the name of a notebook means its defaults.

    Args:
        name: of a set or a notebook.

    Raises:
        InputError: there is neither, or the set cannot be used.
    """
    sets, known = set_files(folder), notebooks.available(folder)
    if name in sets:
        return read_set(sets[name], folder)
    if name not in known:
        raise InputError(f"unknown report {name!r}{did_you_mean(name, known | sets)}")
    return NamedSet(name, name, known[name], "", {}, {}, 1)


def named_sets(folder: Path | None = None) -> list[NamedSet]:
    """Read and check all named sets, in the order of the notebooks, those of one notebook by name.

    Raises:
        InputError: one of them cannot be used, or there is none.
    """
    sets = [read_set(path, folder) for path in set_files(folder).values()]
    if not sets:
        raise InputError(f"no named sets (*.yaml) in {_folder(folder)}")
    order = list(notebooks.available(folder))
    return sorted(sets, key=lambda each: (order.index(each.notebook), each.name))


def read_set(file: Path, folder: Path | None = None) -> NamedSet:
    """Read one named set and check it against its notebook, without running anything.

    Args:
        file: YAML with the keys notebook and title, and perhaps parameters, figure and seconds.

    Raises:
        InputError: the file cannot be read, or a key or value in it cannot be used; the sentence names the file.
    """
    content = files.read_mapping(file, "holds no mapping; allowed: lines such as notebook: overfit")
    try:
        return _checked(file.stem, content, folder)
    except InputError as error:
        raise InputError(f"{file.name}: {error}") from None


def _checked(name: str, content: dict[str, Any], folder: Path | None) -> NamedSet:
    from rislab.reports import parameter_checks

    known = notebooks.available(folder)
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name) or name == Path(html_export.INDEX).stem:
        raise InputError(f"the file's name is {name!r}; allowed: lower-case letters, digits, - and _, and not 'index'")
    for key in content:
        if key not in KEYS:
            allowed = did_you_mean(str(key), dict.fromkeys(KEYS))
            raise InputError(f"unknown key {key!r}{allowed}")
    values = {"parameters": {}, "figure": 1, "seconds": 0, **content}
    notebook, title, given = (values.get(key) for key in KEYS[:3])
    if not isinstance(notebook, str) or notebook not in known:
        raise InputError(f"notebook is {notebook!r}{did_you_mean(str(notebook), known)}")
    if not isinstance(title, str) or not title.strip() or len(title.strip().splitlines()) > 1:
        raise InputError(f"title is {title!r}; allowed: one line of text")
    if not isinstance(given, dict) or not all(isinstance(key, str) for key in given):
        raise InputError(f"parameters is {given!r}; allowed: a mapping such as {{epochs: 30}}")
    check_number("figure", values["figure"], 1, 1000, integer=True)
    check_number("seconds", values["seconds"], 0, 10**6, integer=True)
    parameters = runner.checked_values(known[notebook], given, parameter_checks.check_for(notebook))[0]
    defaults = {key: parameter.default for key, parameter in notebooks.parameters(known[notebook]).items()}
    changed = {key: (value, defaults[key]) for key, value in parameters.items() if value != defaults[key]}
    if name in known and (name != notebook or changed):
        raise InputError(f"the set is named as the notebook {name!r}; allowed: its defaults, or another name")
    shown, seconds = values["figure"], values["seconds"]
    return NamedSet(name, notebook, known[notebook], title.strip(), parameters, changed, shown, seconds)


def build_gallery(
    sets: Sequence[NamedSet],
    out: Path,
    *,
    on_begin: Callable[[NamedSet], None] = lambda each: None,
    progress: bool = True,
    workers: int = 1,
) -> Iterator[runner.Report]:
    """Run named sets; yields each report as soon as it is written. Trainings that several of them need are run once.

    `index.html` is written before the first and after each report, so that it is true whenever this is interrupted.

    Args:
        sets: from named_sets().
        out: where reports and index go.
        on_begin: called with each set before it is run.
        progress: show a progress bar for each on stderr; only by one worker.
        workers: processes, each with one report at a time; 1 runs them in this one.

    Raises:
        InputError: a file could not be written, or a process was killed.
    """
    # Imported here, since it imports torch, which the processes of the reports do not need.
    from rislab.training import shared_runs

    check_number("workers", workers, 1, 1024, integer=True)
    began = time.perf_counter()
    header = runner.run_provenance({}, sets[0].path.parent if sets else None)
    done: dict[str, runner.Report] = {}
    write_gallery(sets, done, out, header)
    with tempfile.TemporaryDirectory() as scratch:
        work = partial(_run_set, out, progress and workers == 1, {shared_runs.FOLDER: scratch})
        # The longest first: if it began last, the other processes would wait for it.
        order = list(sets) if workers == 1 else sorted(sets, key=lambda each: -each.seconds)
        for report in in_processes(work, order, workers, on_begin=on_begin):
            done[report.name] = report
            write_gallery(sets, done, out, {**header, "duration": html_export.duration(time.perf_counter() - began)})
            yield report


def _run_set(out: Path, progress: bool, environment: Mapping[str, str], chosen: NamedSet) -> runner.Report:
    return chosen.run({}, out, progress=progress, environment=environment)


def write_gallery(
    sets: Sequence[NamedSet], done: Mapping[str, runner.Report], out: Path, header: Mapping[str, str]
) -> None:
    """Write the index page, which shows each set with what its report measured, or says that it was not run.

    Args:
        sets: all that belong to the gallery.
        done: reports by the name of their set.
        out: folder of the reports.
        header: label to text, shown under the heading.
    """
    cards = [_card(each, done.get(each.name)) for each in sets]
    counts = count_verdicts(card["verdict"] for card in cards)
    html_export.write_index(out, "rislab: reports", "gallery", cards=cards, counts=counts, header=header)


def count_verdicts(verdicts: Iterable[str]) -> str:
    """How often each verdict occurs, such as "3 passed, 1 not run"."""
    counts = Counter(verdicts)
    return ", ".join(f"{counts[kind]} {kind}" for kind in VERDICTS if counts[kind])


def _card(each: NamedSet, report: runner.Report | None) -> dict[str, Any]:
    """What the page shows of a set: its miniature, question, parameters, verdict and measured lines."""
    verdict = report.verdict if report else "not run"
    card = {"set": each, "report": report, "verdict": verdict, "kind": verdict.replace(" ", "-")}
    figures = miniatures.figures_of(report.notebook) if report else []
    number = min(each.figure, len(figures))
    caption, drawn = "", ""
    if figures:
        figure = figures[number - 1]
        name = figure_content.title_of(figure) or " · ".join(figure_content.headings(figure))
        caption = f"figure {number} of {len(figures)}{f': {name}' if name else ''}"
        label = f"figure {number} of {len(figures)}: {figure_content.describe_figure(figure)}"
        drawn = html_export.figure_html(miniatures.miniature(figure), still=True, label=label)
    return {**card, "figure": drawn, "caption": caption}
