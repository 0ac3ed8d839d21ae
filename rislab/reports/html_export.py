"""An executed notebook as one HTML file that opens offline: interactive figures, formulas and images inside."""

from __future__ import annotations

import ast
import base64
import copy
import gzip
import json
import re
from collections.abc import Mapping
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

from rislab import files
from rislab.errors import InputError
from rislab.reports.figure_content import describe_figure
from rislab.reports.notebooks import numbered, parameters_of, read_notebook, statements_of, tagged
from rislab.reports.summary import Summary

_COLOUR = re.compile(r"\x1b\[[0-9;]*[34]8;[25];[0-9;]*m")
PLOTLY = "application/vnd.plotly.v1+json"
STATIC = Path(__file__).parent / "static"
INDEX = "index.html"


def export_html(
    source: Any,
    html_path: Path,
    *,
    title: str,
    header: Mapping[str, str],
    folder: Path | None = None,
    summary: Summary | None = None,
) -> None:
    """Write an executed notebook as one HTML file that needs no network: figures, formulas and images are inside.

    Args:
        source: the notebook, as a path or an nbformat node; it is not changed.
        html_path: the file to write, atomically.
        title: the page's title, and its heading if the notebook begins without one.
        header: label to text, shown under heading and summary.
        folder: where the notebook's relative images are; by default the folder of the path.
        summary: what stands on top of the report of a run.
    """
    if isinstance(source, (str, Path)):
        folder = folder or Path(source).parent
        source = read_notebook(Path(source))
    notebook = _presentable(copy.deepcopy(source), title, header, summary)
    body, _ = _exporter().from_notebook_node(notebook, {"metadata": {"path": str(folder or "")}})
    files.replace(Path(html_path), html_page(title, body, style=_highlighting()).encode())


def html_page(title: str, body: str, *, style: str = "") -> str:
    """Put a body into the frame of all our pages, which load nothing and draw all figures with one copy of plotly.

    Args:
        title: of the window, as text.
        body: HTML.
        style: CSS beyond the common one.
    """
    from markupsafe import Markup

    drawing = {"plotly": _packed_plotly(), "script": Markup(static_text("figures.js"))} if "data-plotly" in body else {}
    style = Markup(static_text("page.css") + style)
    return render("page.html.j2", title=title, body=Markup(body), style=style, drawing=drawing) + "\n"


@cache
def _packed_plotly() -> str:
    """plotly.js, which is most of a page, compressed to two fifths of its size; browsers since 2023 decompress it."""
    from plotly.offline import get_plotlyjs

    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()


def static_text(name: str) -> str:
    """A file of the folder static: style, script or template."""
    return (STATIC / name).read_text(encoding="utf-8")


def render(template: str, **values: Any) -> Any:
    """HTML of a template in the folder static; every value is escaped, unless it is HTML that render() made."""
    from markupsafe import Markup

    return Markup(_templates().get_template(template).render(values))


@cache
def _templates() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(STATIC)
    made = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    made.filters |= {"repr": repr, "duration": duration, "code": _with_code}
    return made


def _with_code(text: str) -> Any:
    """HTML of a sentence in which names stand between backticks."""
    from markupsafe import Markup, escape

    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", escape(text)))


def write_index(out: Path, window: str, template: str, **values: Any) -> Path:
    """Write the page that shows many reports; returns its path.

    Args:
        out: folder of the reports.
        window: its title.
        template: name of template and style in the folder static.
        values: of the template.
    """
    path = Path(out) / INDEX
    body = render(f"{template}.html.j2", **values)
    files.replace(path, html_page(window, body, style=static_text(f"{template}.css")).encode())
    return path


def duration(seconds: float) -> str:
    """Seconds as a reader wants them: 12.3 s, 2 min 05 s."""
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds // 60:.0f} min {seconds % 60:02.0f} s"


def _presentable(notebook: Any, title: str, header: Mapping[str, str], summary: Summary | None) -> Any:
    from nbformat.v4 import new_markdown_cell

    numbers = numbered(notebook)
    notebook.metadata.pop("widgets", None)
    _show_parameters(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            skipped = "papermill" in cell.metadata and not cell.metadata.papermill.start_time
            cell.metadata["number"] = f"{numbers.get(cell.id, '')}{', not run' if skipped else ''}"
            if _shows_panel(cell.source):
                # The text of a panel that is still at work; its result stands where the panel was awaited.
                cell.outputs = [output for output in cell.outputs if set(output.get("data", ())) != {"text/plain"}]
            cell.outputs = [shown for output in cell.outputs for shown in _shown(output)]
    heading = _html_cell(f"<h1>{escape(title)}</h1>")
    if notebook.cells and notebook.cells[0].cell_type == "markdown" and notebook.cells[0].source.startswith("# "):
        first, _, notebook.cells[0].source = notebook.cells[0].source.partition("\n")
        heading = new_markdown_cell(first)
    notebook.cells[:0] = [heading, _html_cell(render("header.html.j2", header=header, summary=summary))]
    return notebook


def _shows_panel(source: str) -> bool:
    """Whether a cell shows a panel of rislab.panels that it has made, as its value or by lesson.displays()."""
    statements = statements_of(source)
    last = statements[-1] if statements else None
    value = last.value if isinstance(last, ast.Expr) else None
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "lesson.displays" and value.args:
        value = value.args[0]
    for statement in statements:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == getattr(value, "id", None):
            value = statement.value
    return isinstance(value, ast.Call) and ast.unparse(value.func).startswith("rislab.panels.")


def _html_cell(html: str) -> Any:
    from nbformat.v4 import new_code_cell, new_output

    return new_code_cell(outputs=[new_output("display_data", {"text/html": html})])


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
    rows = [(parameter, values.get(name, parameter.default)) for name, parameter in known.items()]
    table = _html_cell(render("parameters.html.j2", rows=rows))
    replaced = [cell.id for cell in tagged(notebook, "parameters")]
    gone = [cell.id for cell in injected]
    notebook.cells = [table if cell.id in replaced else cell for cell in notebook.cells if cell.id not in gone]


def _shown(output: Any) -> list[Any]:
    """Give an output in the one form that shows offline: a list of it, or of nothing for widgets and scripts."""
    data = output.get("data")
    if output.output_type == "error":
        # Of the 256 colours of a terminal some are illegible on our backgrounds; the sixteen named ones are legible.
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


def figure_html(content: Mapping[str, Any], *, still: bool = False, label: str = "") -> Any:
    """A plotly figure as HTML for html_page().

    Args:
        content: data and layout.
        still: without interaction.
        label: what a screen reader reads; by default what the figure shows.
    """
    layout = content.get("layout", {})
    return render(
        "figure.html.j2",
        content=script_json({"data": content.get("data", []), "layout": layout}),
        height=f"{float(layout.get('height') or 450):g}",
        still=still,
        label=label or describe_figure(content),
    )


def script_json(value: Any) -> Any:
    """JSON for a script element: with every < escaped, no text in it can end the element."""
    from markupsafe import Markup

    return Markup(json.dumps(value, separators=(",", ":")).replace("<", "\\u003c"))


def _formula(tex: str, *, block: bool) -> str:
    from latex2mathml.converter import convert

    # Commands that latex2mathml lacks, by others that it has.
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
            full = body if name.startswith("equation") else rf"\begin{{{name}}}{body}\end{{{name}}}"
            return _formula(full, block=True)

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
            # A report shows at once what a lesson shows after an answer.
            shown = re.sub(r"^<details><summary>.*?</summary>(.*?)</details>", r"\1", source, flags=re.DOTALL)
            return str(MarkdownWithMath(renderer=renderer).render(shown))

    # No template is taken from the current folder.
    return Exporter(template_name="basic", raw_template=static_text("cells.html.j2"), extra_template_basedirs=[])


def _highlighting() -> str:
    from pygments.formatters import HtmlFormatter

    # Styles of pygments in which every token has a contrast of 4.5:1 on the backgrounds of our pages.
    styles = {"print, (prefers-color-scheme: light)": "xcode", "screen and (prefers-color-scheme: dark)": "monokai"}
    rules = "\n".join(
        f"@media {media} {{\n{HtmlFormatter(style=style).get_style_defs('.highlight')}\n}}"
        for media, style in styles.items()
    )
    return f"{rules}\n.highlight {{ background: none }}\n"
