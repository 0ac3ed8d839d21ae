"""An executed notebook as one HTML file that opens offline: figures alive, formulas and images inside."""

from __future__ import annotations

import ast
import copy
import json
import re
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from rislab import files
from rislab.errors import InputError
from rislab.reports.notebooks import Parameter, failed_cell, numbered, parameters_of, read_notebook, tagged

_COLOUR = re.compile(r"\x1b\[[0-9;]*[34]8;[25];[0-9;]*m")
PLOTLY = "application/vnd.plotly.v1+json"


def export_html(
    source: Any,
    html_path: Path,
    *,
    title: str,
    header: Mapping[str, str],
    folder: Path | None = None,
    error: str = "",
) -> None:
    """Write an executed notebook as one HTML file that needs no network: figures, formulas and images are inside.

    Args:
        source: the notebook, as a path or an nbformat node; it is not changed.
        html_path: the file to write, atomically.
        title: the page's title, and its heading if the notebook begins without one.
        header: label to text, shown under the heading.
        folder: where the notebook's relative images are; by default the folder of the path.
        error: one line, shown in a box under the heading.
    """
    if isinstance(source, (str, Path)):
        folder = folder or Path(source).parent
        source = read_notebook(Path(source))
    notebook = _presentable(copy.deepcopy(source), title, header, error)
    body, _ = _exporter().from_notebook_node(notebook, {"metadata": {"path": str(folder or "")}})
    files.replace(Path(html_path), html_page(title, body, style=_highlighting()).encode())


def html_page(title: str, body: str, *, style: str = "") -> str:
    """Put a body into the frame of all our pages, which load nothing and draw their figures by one plotly.

    Args:
        title: of the window, as text. body: HTML. style: CSS beyond the common one.
    """
    scripts = ""
    if "data-plotly" in body:
        from plotly.offline import get_plotlyjs

        scripts = f"<script>{get_plotlyjs()}</script>\n<script>{_FIGURES}</script>\n"
    return f'''<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>{_CSS}{style}</style>
</head>
<body>
<main>
{body}
</main>
{scripts}</body>
</html>
'''


def _presentable(notebook: Any, title: str, header: Mapping[str, str], error: str) -> Any:
    from nbformat.v4 import new_markdown_cell

    numbers = numbered(notebook)
    notebook.metadata.pop("widgets", None)
    failed = failed_cell(notebook)
    _show_parameters(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            skipped = "papermill" in cell.metadata and not cell.metadata.papermill.start_time
            cell.metadata["number"] = f"{numbers.get(cell.id, '')}{', not run' if skipped else ''}"
            cell.outputs = [shown for output in cell.outputs for shown in _shown(output)]
    heading = _html_cell(f"<h1>{escape(title)}</h1>")
    if notebook.cells and notebook.cells[0].cell_type == "markdown" and notebook.cells[0].source.startswith("# "):
        first, _, notebook.cells[0].source = notebook.cells[0].source.partition("\n")
        heading = new_markdown_cell(first)
    notebook.cells[:0] = [heading, _html_cell(_header(header, error, failed))]
    return notebook


def _html_cell(html: str) -> Any:
    from nbformat.v4 import new_code_cell, new_output

    return new_code_cell(outputs=[new_output("display_data", {"text/html": html})])


def _header(header: Mapping[str, str], error: str, failed: Any | None) -> str:
    link = f' <a href="#cell-id={escape(failed.id)}">Go to the cell</a>' if failed is not None else ""
    alert = f'<p class="alert" role="alert"><strong>This report is partial.</strong> {escape(error)}{link}</p>'
    items = "".join(f"<div><dt>{escape(label)}</dt><dd>{escape(text)}</dd></div>" for label, text in header.items())
    return (alert if error else "") + f'<dl class="provenance">{items}</dl>'


def _show_parameters(notebook: Any) -> None:
    """Replace the parameters cell, and the one papermill injects after it, by a table; leave code that is no table."""
    try:
        known = parameters_of(notebook)
        injected = tagged(notebook, "injected-parameters")
        values = {
            ast.unparse(node.targets[0]): ast.literal_eval(node.value)
            for cell in injected
            for node in ast.parse(cell.source).body
            if isinstance(node, ast.Assign)
        }
    except (InputError, SyntaxError, ValueError):
        return
    if not known or not values.keys() <= known.keys():
        return
    table = _html_cell(_parameter_table(known, values))
    replaced = [cell.id for cell in tagged(notebook, "parameters")]
    gone = [cell.id for cell in injected]
    notebook.cells = [table if cell.id in replaced else cell for cell in notebook.cells if cell.id not in gone]


def _parameter_table(known: Mapping[str, Parameter], values: Mapping[str, object]) -> str:
    rows = []
    for name, parameter in known.items():
        value = values.get(name, parameter.default)
        was = (
            f' <span class="was">default {escape(repr(parameter.default))}</span>' if value != parameter.default else ""
        )
        rows.append(
            f'<tr><th scope="row"><code>{escape(name)}</code></th>'
            f"<td><code>{escape(repr(value))}</code>{was}</td><td>{escape(parameter.comment)}</td></tr>"
        )
    head = (
        '<thead><tr><th scope="col">parameter</th><th scope="col">value</th><th scope="col">meaning</th></tr></thead>'
    )
    return f'<table class="parameters">{head}<tbody>{"".join(rows)}</tbody></table>'


def _shown(output: Any) -> list[Any]:
    """Give an output in the one form that shows offline: a list of it, or of nothing for widgets and scripts."""
    data = output.get("data")
    if output.output_type == "error":
        # Of its 256 colours, chosen for a terminal, some cannot be read on our grounds; the sixteen named ones can.
        output.traceback = [_COLOUR.sub("\x1b[1m", line) for line in output.traceback]
    if data is None:
        return [output]
    if PLOTLY in data:
        output.data = {"text/html": figure_html(data[PLOTLY])}
    elif "application/vnd.jupyter.widget-view+json" in data or "application/javascript" in data:
        return []
    elif "text/latex" in data and "text/html" not in data:
        output.data = {"text/html": _formula(data["text/latex"].strip().strip("$"), block=True)}
    return [output]


def figure_html(content: Mapping[str, Any], *, still: bool = False, label: str = "") -> str:
    """Give a plotly figure as HTML for a html_page().

    Args:
        content: data and layout. still: drawn, but deaf to the pointer. label: read aloud; by default the title.
    """
    layout = content.get("layout", {})
    label = label or title_of(content) or "interactive figure"
    height = layout.get("height") or 450
    # With every < escaped, no text in a figure can end the script element.
    inside = json.dumps({"data": content.get("data", []), "layout": layout}).replace("<", "\\u003c")
    return (
        f'<figure class="plot" data-plotly="{"still" if still else "live"}" aria-label="{escape(label)}">'
        f'<div style="height:{float(height):g}px"></div><script type="application/json">{inside}</script>'
        "<noscript>This figure needs JavaScript.</noscript></figure>"
    )


def title_of(content: Mapping[str, Any]) -> str:
    """Title of a plotly figure as plain text; empty where it has none."""
    title = content.get("layout", {}).get("title") or ""
    return re.sub("<[^>]*>", " ", title.get("text") or "" if isinstance(title, Mapping) else title)


def _formula(tex: str, *, block: bool) -> str:
    from latex2mathml.converter import convert

    # What latex2mathml does not know, in words that it does.
    known = re.sub(r"\{(?:aligned|split|gathered|gather\*?)\}", "{align*}", tex)
    known = re.sub(r"\\arg(?![a-z])", r"\\operatorname{arg}", known)
    try:
        html = convert(known, display="block" if block else "inline")
    except Exception:
        html = f'<code class="tex">{escape(tex)}</code>'
    return f'<div class="formula">{html}</div>' if block else html


def _exporter() -> Any:
    from jinja2 import pass_context
    from nbconvert import HTMLExporter
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    class Renderer(IPythonRenderer):
        def block_math(self, body: str) -> str:
            return _formula(body, block=True)

        def inline_math(self, body: str) -> str:
            return _formula(body, block=False)

        def latex_environment(self, name: str, body: str) -> str:
            whole = body if name.startswith("equation") else rf"\begin{{{name}}}{body}\end{{{name}}}"
            return _formula(whole, block=True)

    class Exporter(HTMLExporter):
        @pass_context
        def markdown2html(self, context: Any, source: str) -> str:
            renderer = Renderer(
                escape=False,
                attachments=context.get("cell", {}).get("attachments", {}),
                embed_images=True,
                path=context["resources"]["metadata"]["path"],
                exclude_anchor_links=True,
            )
            return str(MarkdownWithMath(renderer=renderer).render(source))

    # No template from the folder that the command happens to run in.
    return Exporter(template_name="basic", raw_template=_CELLS, extra_template_basedirs=[])


def _highlighting() -> str:
    from pygments.formatters import HtmlFormatter

    # Of the styles of pygments, those whose every token has a contrast of 4.5:1 on the grounds of our pages.
    styles = {"light": "xcode", "dark": "monokai"}
    rules = "\n".join(
        f"@media (prefers-color-scheme: {theme}) {{\n{HtmlFormatter(style=style).get_style_defs('.highlight')}\n}}"
        for theme, style in styles.items()
    )
    return f"{rules}\n.highlight {{ background: none }}\n"


# 'unsafe-eval' is for plotly's WebGL traces, which compile their drawing commands.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:; worker-src blob:"
)

_CELLS = """{%- extends 'basic/index.html.j2' -%}
{%- block input_group -%}
{%- if cell.source.strip() -%}
<details><summary>code <span>{{ cell.metadata.number }}</span></summary>
{{ cell.source | highlight_code(metadata=cell.metadata) }}
</details>
{%- endif -%}
{%- endblock input_group -%}
{%- block output_area_prompt -%}{%- endblock -%}
{%- block empty_in_prompt -%}{%- endblock -%}
"""

_FIGURES = """
const dark = matchMedia("(prefers-color-scheme: dark)");
const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
function themed(layout) {
  const ink = colour("--ink"), line = colour("--line"), clear = "rgba(0,0,0,0)";
  const axis = {gridcolor: line, zerolinecolor: line, linecolor: line, tickcolor: line, backgroundcolor: clear};
  const template = structuredClone(layout.template || {});
  const base = template.layout = template.layout || {};
  for (const name of ["xaxis", "yaxis"]) base[name] = {...base[name], ...axis};
  base.scene = {...base.scene};
  for (const name of ["xaxis", "yaxis", "zaxis"]) base.scene[name] = {...base.scene[name], ...axis};
  base.polar = {...base.polar, bgcolor: clear};
  for (const name of ["angularaxis", "radialaxis"]) base.polar[name] = {...base.polar[name], ...axis};
  base.margin = {l: 64, r: 16, t: layout.title ? 56 : 24, b: 52, ...base.margin};
  base.title = {...base.title, x: 0, xref: "container", font: {size: 16}};
  base.hoverlabel = {...base.hoverlabel, font: {color: ink}, bgcolor: colour("--paper"), bordercolor: line};
  const family = getComputedStyle(document.body).fontFamily;
  return {template, font: {family, ...layout.font, color: ink}, paper_bgcolor: clear, plot_bgcolor: clear};
}
for (const figure of document.querySelectorAll("figure[data-plotly]")) {
  const {data, layout} = JSON.parse(figure.querySelector("script").textContent);
  const plot = figure.querySelector("div");
  Plotly.newPlot(plot, data, {...layout, ...themed(layout)}, {
    responsive: true, displaylogo: false, staticPlot: figure.dataset.plotly == "still"
  });
  dark.addEventListener("change", () => Plotly.relayout(plot, themed(layout)));
}
"""

_CSS = """
:root { --ink: #1c2430; --soft: #5b6675; --line: #d9dee5; --paper: #fff; --shade: #f5f7f9; --link: #0b57b0;
  --bad: #b3261e; --badshade: #fdf0ef; --mono: ui-monospace, "Cascadia Code", "Source Code Pro", Menlo, Consolas,
  "DejaVu Sans Mono", monospace }
@media (prefers-color-scheme: dark) { :root { --ink: #e3e7ed; --soft: #9aa5b4; --line: #353d49; --paper: #14181e;
  --shade: #1c222a; --link: #7db4ff; --bad: #ff9b93; --badshade: #2b1b1c } }
* { box-sizing: border-box }
body { margin: 0; background: var(--paper); color: var(--ink); font: 1.0625rem/1.6 system-ui, -apple-system, "Segoe UI",
  Roboto, "Noto Sans", "Liberation Sans", sans-serif; text-rendering: optimizeLegibility }
main { max-width: 72rem; margin: 0 auto; padding: 3rem 2rem 6rem }
h1, h2, h3, h4 { line-height: 1.2; text-wrap: balance; margin: 2.2em 0 .6em; font-weight: 650 }
h1 { font-size: 2.25rem; letter-spacing: -.015em; margin-top: 0 } h2 { font-size: 1.5rem } h3 { font-size: 1.2rem }
p, ul, ol, blockquote, .text_cell_render pre { max-width: 44rem } p { margin: 0 0 1em; hyphens: auto }
a { color: var(--link) } img, svg { max-width: 100%; height: auto }
:focus-visible { outline: 2px solid var(--link); outline-offset: 2px }
blockquote { margin: 1em 0; padding-left: 1em; border-left: 3px solid var(--line); color: var(--soft) }
code, pre { font-family: var(--mono); font-size: .875em } p code, li code { overflow-wrap: anywhere }
pre { margin: 0; padding: .7rem 1rem; overflow-x: auto; line-height: 1.45; font-size: .85rem; background: var(--shade);
  border-radius: 4px } pre code { font-size: inherit }
hr { border: 0; border-top: 1px solid var(--line); margin: 2.5rem 0 }
.output_area { margin: .6rem 0; overflow-x: auto } .output_area pre { max-height: 32rem; overflow: auto }
.output_stderr pre { border-left: 3px solid var(--line) } .output_error pre { border-left: 3px solid var(--bad) }
details { margin: .9rem 0 .3rem } summary { cursor: pointer; color: var(--soft); font-size: .8rem; width: max-content }
summary span { font-variant-numeric: tabular-nums } details > .highlight { margin-top: .4rem }
.provenance { display: flex; flex-wrap: wrap; gap: .7rem 2.2rem; margin: 1.4rem 0 2.4rem; padding: .9rem 0;
  border: solid var(--line); border-width: 1px 0; font-size: .85rem; line-height: 1.4 }
dt { color: var(--soft) } dd { margin: 0; font-variant-numeric: tabular-nums }
.alert { max-width: none; padding: .8rem 1rem; border-left: 4px solid var(--bad); background: var(--badshade);
  overflow-wrap: anywhere } .alert strong { color: var(--bad) }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; margin: 1rem 0 }
th, td { padding: .35rem 1.4rem .35rem 0; text-align: left; vertical-align: baseline;
  border-bottom: 1px solid var(--line) }
th { font-weight: 600 } thead th { color: var(--soft); font-weight: 400; font-size: .8rem }
.parameters td:nth-child(2) { overflow-wrap: anywhere } .was { color: var(--soft); font-size: .8rem; margin-left: .4em }
figure { margin: 1rem 0 } .formula { max-width: 44rem; margin: 1em 0; overflow-x: auto; overflow-y: hidden }
math { font-size: 1.08em; font-family: "STIX Two Math", "Cambria Math", "Latin Modern Math", "Libertinus Math", math }
[mathvariant="bold-italic"], [mathvariant="bold"] { font-weight: bold }
mtd[columnalign="right"] { text-align: right; padding-right: 0 } mtd[columnalign="left"] { text-align: left }
[mathvariant="sans-serif"] { font-family: sans-serif; text-transform: none }
.ansi-bold { font-weight: bold } .ansi-red-fg, .ansi-red-intense-fg { color: var(--bad) }
.ansi-green-fg, .ansi-green-intense-fg { color: light-dark(#1a7f37, #56d364) }
.ansi-yellow-fg, .ansi-yellow-intense-fg { color: light-dark(#8a6100, #e3b341) }
.ansi-blue-fg, .ansi-blue-intense-fg, .ansi-cyan-fg, .ansi-cyan-intense-fg { color: var(--link) }
.ansi-magenta-fg, .ansi-magenta-intense-fg { color: light-dark(#8250df, #d2a8ff) }
@media (prefers-color-scheme: dark) { pre span[style*="rgb"] { filter: brightness(1.8) } }
@media print { details { display: none } main { padding: 0; max-width: none } }
"""
