"""The documentation: every public name is explained and its example runs, every link leads somewhere."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import re
import shutil
import types
from pathlib import Path

import pytest

import rislab
from docs.site import build, gallery, reference
from docs.site.page import SECTIONS, Page, text_of
from rislab.checkup.rules import RULES
from rislab.reports import html_export

PLACES = ["rislab", *reference.ROOMS]
WITH_EXAMPLES = [place for place in PLACES if (reference.EXAMPLES / f"{place}.md").exists()]


def small_rules(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for code, rule in RULES.items():
        found = "".join(f'<p id="{name.replace(" ", "-")}">{name}</p>' for name in rule.fixes)
        (folder / f"{code}.html").write_text(html_export.html_page(code, f"<h1>a rule</h1>{found}"))
    links = "".join(f'<a href="{code}.html">{code}</a>' for code in RULES)
    (folder / "index.html").write_text(html_export.html_page("rules", f"<h1>Rules</h1>{links}"))
    return folder / "index.html"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        # The figures themselves have tests of their own.
        patch.setattr(gallery, "_figures", lambda: iter(()))
        # Nothing of reports that lie, or are being made, in reports/out.
        patch.setattr(build, "ROOT", folder)
        build.build(folder, write_rules=small_rules)
    return folder


@pytest.mark.slow
def test_every_link_leads_somewhere_and_nothing_is_fetched(site: Path) -> None:
    assert build.broken_links(site) == []
    for path in (site / "assets").glob("site.*"):
        assert "http" not in path.read_text() and "@import" not in path.read_text()


@pytest.mark.parametrize(
    "wrong", ['<a href="nowhere.html">', '<a href="#nowhere">', '<img src="https://host/a.png">', '<img src="a.png">']
)
def test_a_broken_link_is_named(wrong: str, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text(f'<h2 id="here"><a href="#here">{wrong}<a href="https://host">')
    assert len(build.broken_links(tmp_path)) == 1


def test_the_first_page_shows_the_first_screen_of_the_readme(site: Path) -> None:
    first = (site / "index.html").read_text()
    assert "rislab checkup train.py" in first and 'src="assets/overview.png"' in first and "Three ways in" in first


def test_every_kind_of_page_is_there(site: Path) -> None:
    for section in SECTIONS:
        assert len(list((site / section).glob("*.html"))) >= 2
    assert len(list((site / "howto").glob("*.html"))) == 10
    assert {path.stem for path in (build.ROOT / "notebooks").glob("*.ipynb")} == {
        path.stem for path in (site / "tutorials").glob("*.html")
    }


@pytest.mark.parametrize("place", PLACES)
def test_every_signature_is_python_with_the_arguments_and_defaults_of_the_name(place: str) -> None:
    package = rislab if place == "rislab" else importlib.import_module(f"rislab.{place}")
    for name, thing in reference.public_names(package).items():
        if not callable(thing) or isinstance(thing, types.UnionType):
            continue
        (written,) = ast.parse(f"def {reference.signature_of(name, thing)}: ...").body
        assert isinstance(written, ast.FunctionDef)
        arguments = inspect.signature(thing).parameters.values()
        named = [one.name for one in arguments if one.kind is one.KEYWORD_ONLY]
        assert [one.arg for one in written.args.kwonlyargs] == named
        given = [*written.args.defaults, *(one for one in written.args.kw_defaults if one is not None)]
        texts = [ast.literal_eval(one) for one in given if isinstance(one, ast.Constant)]
        assert [one for one in texts if isinstance(one, str)] == [
            one.default for one in arguments if isinstance(one.default, str)
        ]


@pytest.mark.parametrize("place", PLACES)
def test_every_public_name_has_an_example(place: str) -> None:
    package = rislab if place == "rislab" else importlib.import_module(f"rislab.{place}")
    explained = (
        set() if place != "rislab" else {name for room in reference.ROOMS for name in reference.examples_of(room)}
    )
    for name, thing in reference.public_names(package).items():
        example = reference.examples_of(place).get(name) or inspect.getdoc(thing) or ""
        assert name in explained or ">>>" in example, name


@pytest.mark.parametrize(
    "place",
    [pytest.param(each, marks=pytest.mark.process if each == "tuning" else []) for each in WITH_EXAMPLES],
)
@pytest.mark.usefixtures("forked")
def test_examples_run(place: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RISLAB_LIVE", "0")
    monkeypatch.chdir(tmp_path)
    path = reference.EXAMPLES / f"{place}.md"
    result = doctest.testfile(str(path), module_relative=False, optionflags=doctest.ELLIPSIS, encoding="utf-8")
    assert result.failed == 0 and result.attempted > 0


def test_arguments_results_and_errors_become_tables() -> None:
    html = reference.docstring_html(
        "What it does.\n\nArgs:\n    first: [B,K], radians; one\n        that goes on.\n    *rest: others.\n\n"
        "Returns:\n    A `Thing`.\n\nRaises:\n    InputError: for x < 1.\n\nExample:\n    >>> 1 + 1\n    2\n"
    )
    assert "<code>first</code></td><td>[B,K], radians; one that goes on.</td>" in html
    assert "<code>*rest</code>" in html and "<code>InputError</code></td><td>for x &lt; 1.</td>" in html
    assert "<p>Returns: A <code>Thing</code>.</p>" in html and "&gt;&gt;&gt; 1 + 1\n2" in html


def test_the_search_knows_pages_and_names(site: Path) -> None:
    index = (site / "assets" / "index.js").read_text()
    for words in ("howto/01_check_my_loop.html", "rules/C1.html", "rules/C1.html#never-divided"):
        assert words in index
    for address, name in re.findall(r'\["([^"#]*)#([^"]*)"', index):
        assert f'id="{name}"' in (site / address).read_text(), name
    page = Page("a/b.html", "A", "howto", "<p>plain <b>words</b></p><script>not these</script>")
    assert build.search_index([page]) == [["a/b.html", "A", "How to", "plain words"]]
    assert text_of("a &lt; b") == "a < b"


@pytest.mark.process
@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_from_disk_the_search_answers_and_no_page_is_wider_than_a_telephone(site: Path) -> None:
    from tests.browser.chromium import launched

    with launched() as browser:
        page = browser.new_page(viewport={"width": 420, "height": 900})
        asked: list[str] = []
        wrong: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        for path in ("index.html", "reference/music.html", "reference/cli.html", "tutorials/05_music.html"):
            page.goto((site / path).as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= 420, path
        page.keyboard.press("/")
        page.keyboard.type("accumulation")
        broken = """() => {
          const words = new Set(PAGES.flatMap(([, , , text]) => ["…", ...text.split(/\\s+/)]));
          const shown = [...document.querySelectorAll("#results small")].map((one) => one.textContent);
          const texts = shown.map((text) => text.replace(/^.*?: /, ""));
          return texts.flatMap((text) => text.split(/\\s+/)).filter((word) => !words.has(word));
        }"""
        assert page.locator("#results small").count() > 3 and page.evaluate(broken) == []
        page.locator("#search").fill("")
        page.keyboard.type("never divided")
        assert page.locator("#results a").first.get_attribute("href") == "../rules/C1.html#never-divided"
        page.locator("#search").fill("")
        page.keyboard.type("bartlett_spec")
        page.keyboard.press("Enter")
        page.wait_for_url("**/reference/music.html#bartlett_spectrum")
        assert wrong == [] and all(url.startswith(("file:", "data:", "blob:")) for url in asked)


def test_the_search_knows_no_words_of_links_to_other_pages() -> None:
    assert text_of('<nav><a href="C2.html">C2 →</a></nav><h1>C1 gradient scale</h1>') == "C1 gradient scale"
