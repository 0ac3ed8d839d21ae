"""The gallery: named parameter sets (`reports/*.yaml`), a report of each, and one page that shows them side by side."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from rislab import files
from rislab.errors import InputError, check_number
from rislab.reports import html_export, notebooks, runner

INDEX = "index.html"
KEYS = ("notebook", "title", "parameters", "figure")
SCALE = 0.45  # height of a miniature, as a share of that of its figure


@dataclass(frozen=True)
class NamedSet:
    """One file `reports/<name>.yaml`.

    Args:
        name: of the set and of its report. notebook: name of its report, as notebooks.available() lists it.
        path: of the notebook. title: what the set asks, one sentence.
        parameters: values that the file gives. changed: those of them that differ from the defaults, with these.
        figure: which figure of the report stands for it in the gallery, counted from 1.
    """

    name: str
    notebook: str
    path: Path
    title: str
    parameters: dict[str, object]
    changed: dict[str, tuple[object, object]]
    figure: int

    def run(self, values: Mapping[str, object], out: Path, *, progress: bool = True) -> runner.Report:
        """Run the notebook with the set's values, and those given beyond them; see runner.run_notebook()."""
        return runner.run_notebook(
            self.notebook,
            {**self.parameters, **values},
            out=out,
            folder=self.path.parent,
            check=runner.check_for(self.notebook),
            progress=progress,
            saved_as=self.name,
            question=self.title,
        )


def set_files(folder: Path | None = None) -> dict[str, Path]:
    """The files of the named sets, by name: `reports/*.yaml` beside the folder of the notebooks; none is read.

    Args:
        folder: of the notebooks; see notebooks.available().
    """
    return {path.stem: path for path in sorted(_folder(folder).glob("*.yaml"))}


def _folder(folder: Path | None) -> Path:
    return next(iter(notebooks.available(folder).values())).parent.parent / "reports"


def find_set(name: str, folder: Path | None = None) -> NamedSet:
    """The set of that name; the name of a notebook means its defaults.

    Args:
        name: of a set or a notebook. folder: of the notebooks; see notebooks.available().

    Raises:
        InputError: there is neither, or the set cannot be used.
    """
    sets, known = set_files(folder), notebooks.available(folder)
    if name in sets:
        return read_set(sets[name], folder)
    if name not in known:
        raise InputError(f"unknown report {name!r}{notebooks.did_you_mean(name, known | sets)}")
    return NamedSet(name, name, known[name], "", {}, {}, 1)


def named_sets(folder: Path | None = None) -> list[NamedSet]:
    """Read and check all named sets, in the order of the notebooks, those of one notebook by name.

    Args:
        folder: of the notebooks; see notebooks.available().

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
        file: YAML with the keys notebook and title, and perhaps parameters and figure.
        folder: of the notebooks; see notebooks.available().

    Raises:
        InputError: the file cannot be read, or a key or value in it cannot be used; the sentence names the file.
    """
    try:
        return _checked(file.stem, _content(file), folder)
    except InputError as error:
        raise InputError(f"{file.name}: {error}") from None


def _content(file: Path) -> dict[str, Any]:
    import yaml

    try:
        text = file.read_text(encoding="utf-8")
        content = files.parse_yaml(text)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except OSError as error:
        raise InputError(f"could not be read: {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"not YAML ({error})") from None
    if not isinstance(node, yaml.MappingNode) or not isinstance(content, dict):
        raise InputError("holds no mapping; allowed: lines such as notebook: overfit")
    # The loader takes the last of two equal keys without a word.
    for each in (node, *(value for _, value in node.value if isinstance(value, yaml.MappingNode))):
        keys = [key.value for key, _ in each.value]
        for key in keys:
            if keys.count(key) > 1:
                raise InputError(f"{key} is given {keys.count(key)} times; allowed: once")
    return content


def _checked(name: str, content: dict[str, Any], folder: Path | None) -> NamedSet:
    known = notebooks.available(folder)
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name) or name == Path(INDEX).stem:
        raise InputError(f"the file's name is {name!r}; allowed: lower-case letters, digits, - and _, and not 'index'")
    for key in content:
        if key not in KEYS:
            allowed = notebooks.did_you_mean(str(key), dict.fromkeys(KEYS))
            raise InputError(f"unknown key {key!r}{allowed}")
    values = {"parameters": {}, "figure": 1, **content}
    notebook, title, given = (values.get(key) for key in KEYS[:3])
    if not isinstance(notebook, str) or notebook not in known:
        raise InputError(f"notebook is {notebook!r}{notebooks.did_you_mean(str(notebook), known)}")
    if not isinstance(title, str) or not title.strip() or len(title.strip().splitlines()) > 1:
        raise InputError(f"title is {title!r}; allowed: one line of text")
    if not isinstance(given, dict) or not all(isinstance(key, str) for key in given):
        raise InputError(f"parameters is {given!r}; allowed: a mapping such as {{epochs: 30}}")
    check_number("figure", values["figure"], 1, 1000, integer=True)
    parameters = runner.checked_values(known[notebook], given, runner.check_for(notebook))[0]
    defaults = {key: parameter.default for key, parameter in notebooks.parameters(known[notebook]).items()}
    changed = {key: (value, defaults[key]) for key, value in parameters.items() if value != defaults[key]}
    if name in known and (name != notebook or changed):
        raise InputError(f"the set is named as the notebook {name!r}; allowed: its defaults, or another name")
    return NamedSet(name, notebook, known[notebook], title.strip(), parameters, changed, values["figure"])


def build_gallery(
    sets: Sequence[NamedSet],
    out: Path,
    *,
    on_begin: Callable[[NamedSet], None] = lambda each: None,
    progress: bool = True,
) -> Iterator[runner.Report]:
    """Run named sets one after the other; yields each report as soon as it is written.

    `index.html` is written before the first and after each report, so that it is true whenever this is interrupted.

    Args:
        sets: from named_sets(). out: where reports and index go. on_begin: called with each set before it is run.
        progress: show a progress bar for each on stderr.

    Raises:
        InputError: a file could not be written.
    """
    began = time.perf_counter()
    header = runner.run_provenance({}, sets[0].path.parent if sets else None)
    done: dict[str, runner.Report] = {}
    write_gallery(sets, done, out, header)
    for each in sets:
        on_begin(each)
        done[each.name] = each.run({}, out, progress=progress)
        write_gallery(sets, done, out, {**header, "duration": runner.duration(time.perf_counter() - began)})
        yield done[each.name]


def write_gallery(
    sets: Sequence[NamedSet], done: Mapping[str, runner.Report], out: Path, header: Mapping[str, str]
) -> None:
    """Write the index page, which shows each set with what its report measured, or says that it was not run.

    Args:
        sets: all that belong to the gallery. done: reports by the name of their set.
        out: folder of the reports. header: label to text, shown under the heading.
    """
    verdicts = [done[each.name].verdict if each.name in done else "not run" for each in sets]
    counts = ", ".join(f"{verdicts.count(kind)} {kind}" for kind in _MARKS if kind in verdicts)
    items = "".join(f"<div><dt>{escape(label)}</dt><dd>{escape(text)}</dd></div>" for label, text in header.items())
    body = (
        f"<h1>Reports</h1><p>{len(sets)} reports: {counts}. Figures and lines are what the notebooks measured.</p>"
        f'<dl class="provenance">{items}</dl>{_contents(sets, verdicts)}{_alert(sets, done)}'
        + "".join(_card(each, done.get(each.name)) for each in sets)
    )
    files.replace(Path(out) / INDEX, html_export.html_page("rislab: reports", body, style=_STYLE).encode())


def _contents(sets: Sequence[NamedSet], verdicts: Sequence[str]) -> str:
    links = "".join(
        f'<li class="{_kind(verdict)}"><a href="#{each.name}">{each.name}</a> '
        f"<span>{_MARKS[verdict]} {verdict}</span></li>"
        for each, verdict in zip(sets, verdicts, strict=True)
    )
    return f'<nav aria-label="reports"><ul>{links}</ul></nav>'


def _alert(sets: Sequence[NamedSet], done: Mapping[str, runner.Report]) -> str:
    lines = [
        f"<strong>{each.name} {done[each.name].verdict}.</strong> {escape(done[each.name].error)}"
        for each in sets
        if each.name in done and not done[each.name].ok
    ]
    return f'<p class="alert" role="alert">{"<br>".join(lines)}</p>' if lines else ""


def _card(each: NamedSet, report: runner.Report | None) -> str:
    """One set: its miniature, question, parameters, verdict and measured lines."""
    verdict = report.verdict if report else "not run"
    told = f"{_MARKS[verdict]} {verdict}"
    links = said = ""
    if report:
        told += f" in {runner.duration(report.seconds)}"
        links = f' · <a href="{each.name}.html">report</a> · <a href="{each.name}.ipynb">notebook as executed</a>'
        if not report.ok:
            unrun = f"; {report.unrun} code cells were not run" if report.unrun else ""
            said = f'<p class="alert">{escape(report.error)}{unrun}</p>'
        said += f"<pre>{escape(report.closing.rstrip())}</pre>" if report.closing.strip() else ""
    changed = " · ".join(
        f'<code>{escape(key)} = {escape(repr(value))}</code><span class="was">default {escape(repr(default))}</span>'
        for key, (value, default) in each.changed.items()
    )
    heading = f'<a href="{each.name}.html">{escape(each.title)}</a>' if report else escape(each.title)
    return (
        f'<article id="{each.name}" class="{_kind(verdict)}"><div>{_miniature(each, report)}</div><div>'
        f'<p class="name"><strong>{each.name}</strong> from {escape(each.path.name)}</p><h2>{heading}</h2>'
        f'<p class="set">{changed or "All parameters at their defaults."}</p>'
        f'<p class="verdict"><strong>{told}</strong>{links}</p>{said}</div></article>'
    )


def _kind(verdict: str) -> str:
    return verdict.replace(" ", "-")


def _miniature(each: NamedSet, report: runner.Report | None) -> str:
    drawn = figures_of(report.notebook) if report else []
    if not drawn:
        return f'<p class="empty">{"no figure" if report else "not run"}</p>'
    number = min(each.figure, len(drawn))
    figure = drawn[number - 1]
    name = html_export.title_of(figure) or " · ".join(_headings(figure))
    caption = f"figure {number} of {len(drawn)}{f': {name}' if name else ''}"
    return f'{html_export.figure_html(miniature(figure), still=True, label=caption)}<p class="caption">{escape(caption)}</p>'


def _headings(figure: Mapping[str, Any]) -> list[str]:
    """Titles of subplots, which plotly keeps as annotations that stand on the upper edge of their frames."""
    notes = figure.get("layout", {}).get("annotations", [])
    upper = [note["text"] for note in notes if note.get("xref") == "paper" and note.get("yanchor") == "bottom"]
    return [re.sub("<[^>]*>", " ", text) for text in upper]


def figures_of(executed: Path) -> list[Mapping[str, Any]]:
    """The plotly figures of an executed notebook, in the order of the page."""
    outputs = [output for cell in notebooks.read_notebook(executed).cells for output in cell.get("outputs", [])]
    return [output.data[html_export.PLOTLY] for output in outputs if html_export.PLOTLY in output.get("data", {})]


def miniature(figure: Mapping[str, Any]) -> dict[str, Any]:
    """The same traces and axes in a small frame, without the words: title, legend, colour bars, buttons, axis labels.

    Args:
        figure: data and layout of a plotly figure; it is not changed.
    """
    whole = figure.get("layout", {})
    layout = {key: value for key, value in whole.items() if key not in _WORDS}
    template = layout.get("template", {})
    # In the template for axes that the layout does not mention, and in the layout, which has the last word.
    base = dict(template.get("layout", {}))
    base |= {kind: {**base.get(kind, {}), **bare} for kind, bare in _BARE.items()}
    for key, value in layout.items():
        kind = key.rstrip("0123456789")
        if kind in _BARE:
            layout[key] = {**value, **_BARE[kind]}
    layout |= {
        "template": {**template, "layout": base},
        "height": min(max(SCALE * (whole.get("height") or 450), 150), 260),
        "margin": dict.fromkeys("lrtb", 8),
        "showlegend": False,
    }
    return {"data": [_small(trace) for trace in figure.get("data", [])], "layout": layout}


def _small(trace: Mapping[str, Any]) -> dict[str, Any]:
    small = dict(trace)
    if trace.get("type") in ("heatmap", "contour"):
        small["showscale"] = False
    marker = trace.get("marker", {})
    if isinstance(marker.get("size"), int | float):
        small["marker"] = {**marker, "size": 0.6 * marker["size"]}
    return small


_MARKS = {"passed": "✓", "failed": "✗", "partial": "✗", "not run": "–"}
_AXIS = {"title": {"text": ""}, "showticklabels": False, "ticks": "", "nticks": 6, "automargin": False}
_BARE: dict[str, dict[str, Any]] = {"xaxis": _AXIS, "yaxis": _AXIS, "coloraxis": {"showscale": False}}
_WORDS = ("title", "legend", "annotations", "updatemenus", "sliders", "height", "width", "margin")
_STYLE = """
main > p { max-width: none }
nav ul { display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); gap: .1rem 2rem; padding: 0;
  max-width: none; list-style: none; font-size: .9rem }
nav span { color: var(--soft); white-space: nowrap } nav .failed span, nav .partial span { color: var(--bad) }
article { display: grid; grid-template-columns: 22rem minmax(0, 1fr); gap: 0 2.2rem; padding: 2rem 0;
  border-top: 1px solid var(--line) }
article h2 { margin: .15rem 0 .5rem; font-size: 1.3rem; text-wrap: pretty }
article h2 a { color: inherit; text-decoration: none } article h2 a:hover { text-decoration: underline }
article p { margin: 0 0 .5rem; max-width: none }
.name, .set, .verdict, .caption { font-size: .85rem } .name, .caption { color: var(--soft) }
.name strong { color: var(--ink) } .set { overflow-wrap: anywhere }
.passed .verdict strong { color: light-dark(#1a7f37, #56d364) }
.failed .verdict strong, .partial .verdict strong { color: var(--bad) }
article pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .78rem; margin-top: .7rem }
article figure { margin: 0 0 .3rem; background: var(--shade); border-radius: 4px; overflow: hidden }
.empty { display: grid; place-items: center; height: 8rem; color: var(--soft); background: var(--shade);
  border-radius: 4px }
@media (min-width: 1700px) { main { max-width: 92rem } article { grid-template-columns: 30rem minmax(0, 1fr) } }
@media (max-width: 60rem) { article { grid-template-columns: minmax(0, 1fr) } }
"""
