"""One page for a sweep: the same figure of every cell on shared axes, and a table with what each measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rislab.reports import gallery, html_export, miniatures, runner
from rislab.reports.figure_content import describe_figure, legend
from rislab.reports.sweep import CellResult, SweepCell


def write_sweep_page(
    chosen: gallery.NamedSet,
    axes: Mapping[str, Sequence[object]],
    cells: Sequence[SweepCell],
    results: Mapping[str, CellResult],
    out: Path,
    *,
    figure: int,
    seconds: float,
) -> Path:
    """Write index.html with what there is so far; returns its path.

    Args:
        chosen: the notebook with its values.
        axes: see sweep.parse_grid().
        cells: see sweep.sweep_cells().
        results: by name of the cell.
        out: folder of the reports.
        figure: of each report that is compared, counted from 1.
        seconds: so far.
    """
    header = runner.run_provenance({}, chosen.path.parent) | {"duration": html_export.duration(seconds)}
    fixed = {key: value for key, value in cells[0].parameters.items() if key not in axes}
    header["the same in all"] = " · ".join(f"{key} = {value!r}" for key, value in fixed.items())
    title = f"{chosen.name}: {' × '.join(axes)}"
    asked = f"{chosen.title or chosen.name}, for {'; '.join(_axis(name, values) for name, values in axes.items())}"
    labels = {cell.name: ", ".join(f"{key} = {value}" for key, value in cell.values.items()) for cell in cells}
    drawn = {}
    for cell in cells:
        figures = miniatures.figures_of(out / f"{cell.name}.ipynb") if cell.name in results else []
        if len(figures) >= figure:
            drawn[cell.name] = figures[figure - 1]
    shared = miniatures.shared_ranges(list(drawn.values()))
    stills = {
        name: html_export.figure_html(
            miniatures.multiple(one, shared), still=True, label=f"{labels[name]}: {describe_figure(one)}"
        )
        for name, one in drawn.items()
    }
    return html_export.write_index(
        out,
        f"rislab: {title}",
        "sweep",
        title=title,
        asked=asked,
        axes=list(axes),
        last=list(axes)[-1],
        columns=list(axes.values())[-1],
        cells=cells,
        results=results,
        labels=labels,
        names=list(dict.fromkeys(name for result in results.values() for name in result.numbers)),
        counts=gallery.count_verdicts(result.verdict for result in results.values()),
        header=header,
        number=figure,
        figures=stills,
        legend=legend(list(drawn.values())),
        failed=[cell for cell in cells if cell.name in results and results[cell.name].error],
    )


def _axis(name: str, values: Sequence[object]) -> str:
    return f"{name} = {', '.join(map(str, values))}"
