"""The reference: public names by room, from signatures, docstrings, and the examples in docs/examples."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import types
from html import escape
from pathlib import Path
from typing import Any

import rislab
from docs.site.page import Page, code, text_of
from rislab.cli.main import COMMANDS, commands_page, parser_of

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
ROOMS = tuple(room for rooms in rislab.ROOMS.values() for room in rooms)
PARTS = ("Args", "Returns", "Yields", "Raises", "Attributes", "Example", "Examples")


def public_names(package: Any) -> dict[str, Any]:
    """What the stub of a package names, modules left out."""
    named = {name: getattr(package, name) for name in package.__all__}
    return {name: thing for name, thing in named.items() if not inspect.ismodule(thing)}


def examples_of(room: str) -> dict[str, str]:
    """Examples by name; "" is what all of a room share."""
    path = EXAMPLES / f"{room}.md"
    parts = re.split(r"^### (\w+)\n", path.read_text(encoding="utf-8") if path.exists() else "", flags=re.M)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def pages() -> list[Page]:
    """A page for the package, for each room, and for the command line."""
    return [_first(), *(_room(room) for room in ROOMS if room != "cli"), _command_line()]


def _first() -> Page:
    own = {name: thing for name, thing in public_names(rislab).items() if name not in _homes()}
    homes = [(name, room) for name, room in sorted(_homes().items()) if name in rislab.__all__]
    listed = [f'<li><a href="{room}.html#{name}"><code>rislab.{name}</code></a></li>' for name, room in homes]
    body = ["<h1>rislab</h1>", docstring_html(inspect.getdoc(rislab) or ""), "<h2>Rooms</h2>", "<ul>"]
    body += [f'<li><a href="{room}.html">rislab.{room}</a></li>' for room in ROOMS]
    body += ["</ul>", "<h2>Names that the rooms explain</h2>", f"<ul>{''.join(listed)}</ul>"]
    return _page("rislab", body, own, examples_of("rislab"))


def _homes() -> dict[str, str]:
    """The room that explains each name."""
    return {name: room for room in reversed(ROOMS) for name in public_names(importlib.import_module(f"rislab.{room}"))}


def _room(room: str) -> Page:
    package = importlib.import_module(f"rislab.{room}")
    body = [f"<h1>rislab.{room}</h1>", docstring_html(inspect.getdoc(package) or "")]
    return _page(room, body, public_names(package), examples_of(room), _modules(package))


def _page(
    room: str, body: list[str], names: dict[str, Any], examples: dict[str, str], modules: list[str] | None = None
) -> Page:
    title = room if room == "rislab" else f"rislab.{room}"
    if names:
        body = [*body, "<h2>Public names</h2>"]
    if examples[""].strip():
        body.append(f"<p>The examples begin with</p>{code(_unindented(examples['']))}")
    words = {}
    for name, thing in sorted(names.items(), key=lambda each: each[0].lower()):
        html = member_html(name, thing, examples.get(name, ""))
        body.append(html)
        words[name] = text_of(html)[:400]
    return Page(f"reference/{room}.html", title, "reference", "\n".join([*body, *(modules or [])]), names=words)


def member_html(name: str, thing: Any, example: str = "", *, level: int = 3, id: str = "") -> str:
    """Heading, signature, docstring and example of a name."""
    parts = [f'<div class="member"><h{level} id="{escape(id or name)}"><code>{escape(name)}</code></h{level}>']
    if callable(thing) and not isinstance(thing, types.UnionType):
        parts.append(code(signature_of(name, thing)))
        parts.append(docstring_html(inspect.getdoc(thing) or ""))
    else:
        parts.append(f"<p>A {escape(type(thing).__name__)}.</p>")
    if example.strip():
        parts.append(f"<p>Example:</p>{code(_unindented(example))}")
    return "\n".join([*parts, "</div>"])


def signature_of(name: str, thing: Any) -> str:
    """The signature, an argument a line where one line does not hold it."""
    try:
        signature = inspect.signature(thing)
    except (TypeError, ValueError):
        return name
    arguments = [each.replace(annotation=_unquoted(each.annotation)) for each in signature.parameters.values()]
    # What a call of a class gives is told by its name.
    answer = inspect.Signature.empty if inspect.isclass(thing) else _unquoted(signature.return_annotation)
    signature = signature.replace(parameters=arguments, return_annotation=answer)
    text = name + _without_addresses(str(signature))
    if len(text) <= 92:
        return text
    lines = [f"    {_without_addresses(str(each))}," for each in arguments]
    named = next((place for place, each in enumerate(arguments) if each.kind is each.KEYWORD_ONLY), len(lines))
    if named < len(lines) and not any(each.kind is each.VAR_POSITIONAL for each in arguments):
        lines.insert(named, "    *,")
    last = "" if answer is inspect.Signature.empty else f" -> {answer}"
    return "\n".join([f"{name}(", *lines, f"){last}"])


class _Unquoted(str):
    """A text that stands in a signature as it is."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _unquoted(annotation: Any) -> Any:
    """An annotation, which is a text where annotations are not evaluated."""
    return _Unquoted(annotation) if isinstance(annotation, str) else annotation


def _without_addresses(text: str) -> str:
    return re.sub(r"<factory>|<function \S+ at \w+>", "...", text)


def docstring_html(text: str) -> str:
    """A docstring of Google style as HTML: arguments, results and errors as tables."""
    parts = re.split(rf"^({'|'.join(PARTS)}):[ \t]*\n", text, flags=re.M)
    html = [_paragraphs(parts[0])]
    for title, content in zip(parts[1::2], parts[2::2], strict=True):
        # What is not indented is no part of the section any more.
        inside, outside = re.match(r"((?:[ \t]+.*\n?|\n)*)(.*)", content, re.S).groups()  # type: ignore[union-attr]
        html.append(_section(title, _unindented(inside)) + _paragraphs(outside))
    return "\n".join(html)


def _section(title: str, text: str) -> str:
    if title.startswith("Example"):
        return f"<p>{title}:</p>{code(text)}"
    items = re.findall(r"^(\*{0,2}[\w.]+(?:, \*{0,2}[\w.]+)*):\s(.*(?:\n[ \t]+.*)*)", text, re.M)
    if title in ("Returns", "Yields") or not items:
        return f"<p>{title}: {_inline(' '.join(text.split()))}</p>"
    rows = [
        f"<tr><td><code>{escape(name)}</code></td><td>{_inline(' '.join(what.split()))}</td></tr>"
        for name, what in items
    ]
    head = {"Args": "argument", "Raises": "error", "Attributes": "attribute"}[title]
    return (
        f'<table><thead><tr><th scope="col">{head}</th><th scope="col">meaning</th></tr></thead>{"".join(rows)}</table>'
    )


def _paragraphs(text: str) -> str:
    html = []
    for block in re.split(r"\n\s*\n", text.strip("\n")):
        if not block.strip():
            continue
        if block.startswith((" ", "\t", ">>>")):
            html.append(code(_unindented(block)))
        elif block.startswith(("* ", "- ")):
            items = re.split(r"^[*-] ", block, flags=re.M)[1:]
            html.append(f"<ul>{''.join(f'<li>{_inline(item)}</li>' for item in items)}</ul>")
        else:
            html.append(f"<p>{_inline(block)}</p>")
    return "\n".join(html)


def _inline(text: str) -> str:
    return re.sub(r"`+([^`]+)`+", r"<code>\1</code>", escape(text, quote=False))


def _unindented(text: str) -> str:
    return inspect.cleandoc("\n" + text).strip("\n")


def _modules(package: Any) -> list[str]:
    """Every module of a room, with what it holds."""
    html = ["<h2>Modules</h2>"]
    for info in sorted(pkgutil.iter_modules(package.__path__), key=lambda each: each.name):
        path = f"{package.__name__}.{info.name}"
        if info.ispkg or info.name.startswith("_"):
            continue
        try:
            module = importlib.import_module(path)
        except ModuleNotFoundError as error:
            html.append(
                f"<h3><code>{path}</code></h3><p>Needs {escape(str(error.name))}, which is not installed here.</p>"
            )
            continue
        html.append(f'<h3 id="{info.name}"><code>{path}</code></h3>{docstring_html(inspect.getdoc(module) or "")}')
        members = {name: thing for name, thing in vars(module).items() if _own(name, thing, path)}
        for name, thing in members.items():
            html.append(f"<details><summary><code>{escape(name)}</code> {_summary(thing)}</summary>")
            html.append(f"{code(signature_of(name, thing))}{docstring_html(inspect.getdoc(thing) or '')}</details>")
    return html


def _own(name: str, thing: Any, path: str) -> bool:
    kinds = inspect.isfunction(thing) or inspect.isclass(thing)
    return not name.startswith("_") and kinds and getattr(thing, "__module__", "") == path


def _summary(thing: Any) -> str:
    return _inline((inspect.getdoc(thing) or "").partition("\n")[0])


def _command_line() -> Page:
    body = ["<h1>The command line</h1>", code(commands_page())]
    words = {}
    for name in COMMANDS:
        body.append(f'<h2 id="{name}">rislab {name}</h2>{code(parser_of(name).format_help())}')
        words[name] = COMMANDS[name]
    return Page("reference/cli.html", "rislab (command line)", "reference", "\n".join(body), names=words)
