"""The gallery: named sets are checked before anything runs, a failure stops nothing else, the index is always true."""

from __future__ import annotations

import copy
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from rislab.cli.main import main
from rislab.errors import InputError
from rislab.reports import gallery, html_export, miniatures, notebooks, parameter_checks, runner

SHOW = "from IPython.display import display\ndisplay({'application/vnd.plotly.v1+json': %s}, raw=True)"
CURVE = {"data": [{"y": [3.25, 1, 2]}], "layout": {"title": {"text": "Loss <b>curve</b>"}}}
MAP = {
    "data": [{"type": "heatmap", "z": [[1, 2], [3, 4]]}],
    "layout": {
        "annotations": [{"text": "left<br>half", "xref": "paper", "yanchor": "bottom"}],
        "xaxis": {"type": "linear"},
    },
}


def code(source: str, *tags: str) -> Any:
    return new_code_cell(source, metadata={"tags": list(tags)})


def notebook(root: Path, name: str, *cells: Any) -> None:
    (root / "notebooks").mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=list(cells)), root / "notebooks" / f"{name}.ipynb")


def named(root: Path, name: str, text: str) -> Path:
    (root / "reports").mkdir(parents=True, exist_ok=True)
    path = root / "reports" / f"{name}.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def lab(root: Path) -> Path:
    """A notebook that judges a number, and five sets of it: three pass, one fails its verdict, one stops half-way."""
    notebook(
        root,
        "02_judge",
        new_markdown_cell("# Judge\n\nText."),
        code('value: float = 1.0  # judged\nword: str = "plain"\nsteps: list[int] = [1, 2]', "parameters"),
        code(f"{SHOW % CURVE}\nassert value < 9, 'too <large>'"),
        code(SHOW % MAP),
        code("print(f'measured {value / 3:.4f} <b>{word}</b>')\nassert value < 5, f'{value} is above 5'"),
    )
    notebook(root, "01_plain", code("print('plain')"))
    named(root, "plain", "notebook: plain\ntitle: Is it plain?\n")
    named(root, "judge", "notebook: judge\ntitle: Is <one> small?\n")
    named(
        root,
        "a-good",
        "notebook: judge\ntitle: Is 2 small?\nfigure: 2\nparameters: {value: 2, word: a<b, steps: [1, 2]}",
    )
    named(root, "b-failed", "notebook: judge\ntitle: Is 7 small?\nfigure: 99\nparameters: {value: 7}\n")
    named(root, "c-partial", "notebook: judge\ntitle: Is 11 small?\nparameters: {value: 11.0}\n")
    return root


ORDER = ["plain", "a-good", "b-failed", "c-partial", "judge"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(lab(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[runner.Report], list[str]]]:
    """The lab run once: its folder of reports, the reports, and the index as it stood after each."""
    root = lab(tmp_path_factory.mktemp("gallery"))
    out, found, pages = root / "reports" / "out", [], []
    for report in gallery.build_gallery(gallery.named_sets(root / "notebooks"), out, progress=False):
        found.append(report)
        pages.append((out / "index.html").read_text(encoding="utf-8"))
    yield out, found, pages


def cards(page: str) -> dict[str, str]:
    return dict(re.findall(r'<article id="([^"]*)"[^>]*>(.*?)</article>', page, re.DOTALL))


# ------------------------------------------------------------------------------------------------------- sets of ours


def test_every_notebook_has_a_set_and_every_set_can_be_used() -> None:
    sets = gallery.named_sets()
    assert list(dict.fromkeys(each.notebook for each in sets)) == list(notebooks.available())
    assert len({each.title for each in sets}) == len(sets) == len(gallery.set_files())


@pytest.mark.parametrize("name", list(notebooks.available()))
def test_the_check_of_a_notebook_knows_its_parameters(name: str) -> None:
    path = notebooks.find_notebook(name)
    runner.checked_values(path, {}, parameter_checks.check_for(name))
    values = {key: parameter.default for key, parameter in notebooks.parameters(path).items()}
    with pytest.raises(InputError, match="'?new'?"):
        parameter_checks.check_for(name)({**values, "new": 1})
    (seed,) = (key for key in values if key.endswith("seed"))
    with pytest.raises(InputError, match="seed is -1"):
        runner.checked_values(path, {seed: -1}, parameter_checks.check_for(name))


# ---------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("notebok: judge\ntitle: A", r"unknown key 'notebok', did you mean 'notebook'. allowed: notebook, title"),
        ("1: 2", r"has a field 1; allowed: names"),
        ("title: A", r"notebook is None; allowed: plain, judge"),
        ("notebook: juge\ntitle: A", r"notebook is 'juge', did you mean 'judge'. allowed: plain, judge"),
        ("notebook: [judge]\ntitle: A", r"notebook is \['judge'\], did you mean 'judge'"),
        ("notebook: judge", r"title is None; allowed: one line of text"),
        ("notebook: judge\ntitle: ' '", r"title is ' '; allowed"),
        ("notebook: judge\ntitle: 3", r"title is 3; allowed"),
        ("notebook: judge\ntitle: |\n  a\n  b", r"title is 'a\\nb\\?n?'; allowed: one line"),
        ("notebook: judge\ntitle: A\nparameters: [value]", r"parameters is \['value'\]; allowed: a mapping"),
        ("notebook: judge\ntitle: A\nparameters:", r"parameters is None; allowed: a mapping"),
        ("notebook: judge\ntitle: A\nparameters: {valu: 3}", r"unknown parameter 'valu', did you mean 'value'"),
        ("notebook: judge\ntitle: A\nparameters: {value: high}", r"parameter value is 'high'; allowed: float"),
        ("notebook: judge\ntitle: A\nparameters: {steps: 3}", r"parameter steps is 3; allowed: list\[int\]"),
        ("notebook: judge\ntitle: A\nparameters: {value: 3, value: 4}", r"value is given 2 times; allowed: once"),
        ("notebook: judge\ntitle: A\ntitle: B", r"title is given 2 times; allowed: once"),
        ("notebook: judge\ntitle: A\nfigure: 0", r"figure is 0; allowed: a whole number in \[1, 1000\]"),
        ("notebook: judge\ntitle: A\nfigure: loss", r"figure is 'loss'; allowed"),
        ("- judge", r"holds no mapping"),
        ("", r"holds no mapping"),
        ("a: [", r"not YAML"),
        ("notebook: judge\ntitle: 2026-13-45", r"not YAML"),
        ("a: !!python/object/apply:os.system ['touch x']", r"not YAML"),
    ],
)
def test_a_bad_set_is_one_sentence_that_names_its_file(here: Path, text: str, said: str) -> None:
    file = named(here, "bad", text)
    with pytest.raises(InputError, match=rf"bad\.yaml:? .*{said}"):
        gallery.read_set(file)
    assert not (here / "x").exists()


@pytest.mark.parametrize("name", ["index", "Capital", "a b", "-a", "a.b", "ä", 'a"b'])
def test_a_name_that_makes_no_clean_address_is_refused(here: Path, name: str) -> None:
    with pytest.raises(InputError, match="the file's name is .*; allowed: lower-case letters"):
        gallery.read_set(named(here, name, "notebook: judge\ntitle: A"))


def test_a_set_named_as_a_notebook_is_that_notebook(here: Path) -> None:
    for text in ("notebook: plain\ntitle: A", "notebook: judge\ntitle: A\nparameters: {value: 3}"):
        with pytest.raises(InputError, match=r"judge.yaml: the set is named as the notebook 'judge'; allowed"):
            gallery.read_set(named(here, "judge", text))
    same = gallery.read_set(named(here, "judge", "notebook: judge\ntitle: A\nparameters: {value: 1}"))
    assert same.changed == {}


def test_values_out_of_range_are_refused_by_the_check_of_the_notebook(here: Path, monkeypatch: Any) -> None:
    def check(values: dict[str, object]) -> None:
        if values["value"] == 11.0:
            raise InputError("value is 11; allowed: up to 10")

    monkeypatch.setattr(parameter_checks, "check_for", lambda name: check if name == "judge" else lambda values: None)
    with pytest.raises(InputError, match=r"^c-partial.yaml: value is 11; allowed: up to 10$"):
        gallery.named_sets()


def test_one_bad_set_refuses_all(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(runner, "run_notebook", lambda *_, **__: pytest.fail("something ran"))
    named(here, "z-bad", "notebook: judge\ntitle: A\nparameters: {valu: 3}")
    assert main(["report", "--all"]) == 2
    assert capsys.readouterr().err.startswith("rislab: z-bad.yaml: unknown parameter 'valu'")
    assert not (here / "reports" / "out").exists()


@pytest.mark.parametrize(
    "beside", [["judge"], ["-p", "value", "3"], ["--config", "a.yaml"], ["--list"]], ids=["name", "p", "config", "list"]
)
def test_all_goes_with_no_values_of_its_own(beside: list[str], here: Path, capsys: Any) -> None:
    assert main(["report", "--all", *beside]) == 2
    assert capsys.readouterr().err == (
        "rislab: --all runs every named set as its file has it; allowed with it: --out and --workers\n"
    )


def test_no_sets_is_said(tmp_path: Path) -> None:
    notebook(tmp_path, "01_plain", code("1"))
    with pytest.raises(InputError, match=rf"no named sets \(\*.yaml\) in {re.escape(str(tmp_path / 'reports'))}"):
        gallery.named_sets(tmp_path / "notebooks")


# ---------------------------------------------------------------------------------------------------------- one set


def test_sets_follow_the_order_of_the_notebooks(here: Path) -> None:
    sets = gallery.named_sets()
    assert [each.name for each in sets] == ORDER
    good = sets[1]
    # What equals the default is not said to be changed, though the file names it.
    assert good.changed == {"value": (2.0, 1.0), "word": ("a<b", "plain")}
    assert good.parameters == {"value": 2.0, "word": "a<b", "steps": [1, 2]}


def test_the_longest_begins_first_where_several_run_at_once(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("a-good", 5), ("judge", 70), ("plain", 9)):
        path = here / "reports" / f"{name}.yaml"
        path.write_text(f"{path.read_text().rstrip()}\nseconds: {seconds}\n")
    begun: list[list[str]] = []
    monkeypatch.setattr(
        gallery, "in_processes", lambda work, sets, *_, **__: begun.append([each.name for each in sets]) or ()
    )
    for workers in (1, 2):
        assert list(gallery.build_gallery(gallery.named_sets(), here / "out", workers=workers)) == []
    assert begun == [ORDER, ["judge", "plain", "a-good", "b-failed", "c-partial"]]


def test_a_name_means_a_set_or_a_notebook(here: Path) -> None:
    assert gallery.find_set("a-good").notebook == "judge"
    (here / "reports" / "plain.yaml").unlink()
    assert gallery.find_set("plain") == gallery.NamedSet(
        "plain", "plain", gallery.find_set("plain").path, "", {}, {}, 1
    )
    with pytest.raises(
        InputError, match="unknown report 'a-god', did you mean 'a-good'. allowed: plain, judge, a-good"
    ):
        gallery.find_set("a-god")


def test_a_broken_set_does_not_stand_in_the_way_of_another(here: Path) -> None:
    named(here, "z-bad", "a: [")
    assert gallery.find_set("a-good").name == "a-good"


@pytest.mark.process
def test_values_on_the_command_line_come_last(here: Path, capsys: Any) -> None:
    (here / "values.yaml").write_text("word: file\nvalue: 4\n")
    arguments = ["report", "a-good", "--config", "values.yaml", "-p", "value", "3", "--out", "there"]
    assert main(arguments) == 0
    assert capsys.readouterr().out.startswith("measured 1.0000 <b>file</b>\n")
    page = (here / "there" / "a-good.html").read_text(encoding="utf-8")
    # The set asks about 2; what ran is another question.
    page = page.replace("&#39;", "'")
    asked = "a-good with word = 'file' in place of 'a&lt;b', value = 3.0 in place of 2.0"
    assert f'<p class="question">{asked}</p>' in page
    run = "judge with value = 3.0, word = 'file'"
    assert "Is 2 small?" not in page and f"<title>{run} · rislab</title>" in page
    links = re.findall(r'href="(#[^"]*)"><code>(\w+) = ', page)
    assert links == [("#parameter-value", "value"), ("#parameter-word", "word")]
    assert all(f'id="{target[1:]}"' in page for target, _ in links)
    assert sorted(path.name for path in (here / "there").iterdir()) == ["a-good.html", "a-good.ipynb"]


def test_list_shows_notebooks_and_sets(here: Path, capsys: Any) -> None:
    assert main(["report", "--list"]) == 0
    said = capsys.readouterr().out
    assert "value = 1.0  judged" in said
    assert re.search(r"^a-good +Is 2 small\?\n +02_judge.ipynb, value = 2.0, word = 'a<b'$", said, re.MULTILINE)
    assert re.search(r"^plain +Is it plain\?\n +01_plain.ipynb, defaults$", said, re.MULTILINE)


# ---------------------------------------------------------------------------------------------------------- all sets


@pytest.mark.process
def test_a_failure_does_not_stop_the_others(ran: Any) -> None:
    _, found, _ = ran
    assert [report.name for report in found] == ORDER
    assert [report.verdict for report in found] == ["passed", "passed", "failed", "partial", "passed"]
    assert [report.unrun for report in found] == [0, 0, 0, 2, 0]
    assert found[2].error == "cell 4 (print(f'measured {value / 3:.4f} <b>{word}</b>')): AssertionError: 7.0 is above 5"
    assert found[2].closing == "measured 2.3333 <b>plain</b>\n"


@pytest.mark.process
def test_the_index_is_true_after_each_report(ran: Any) -> None:
    _, _, pages = ran
    for count, page in enumerate(pages, start=1):
        for number, (name, card) in enumerate(cards(page).items()):
            assert name == ORDER[number]
            assert ("not run</strong>" in card) == (number >= count)
            assert (f'href="{name}.html"' in card) == (number < count)
        assert page.count("not run</strong>") == len(ORDER) - count
    assert "5 reports: 3 passed, 1 failed, 1 partial." in pages[-1]
    assert "5 reports: 1 passed, 4 not run." in pages[0]


@pytest.mark.process
def test_a_card_shows_what_was_measured(ran: Any) -> None:
    _, found, pages = ran
    good = cards(pages[-1])["a-good"]
    assert "<pre>measured 0.6667 &lt;b&gt;a&lt;b&lt;/b&gt;</pre>" in good
    assert '<code>value = 2.0</code><span class="was">default 1.0</span>' in good
    assert "steps" not in good and "Is 2 small?" in good and "02_judge.ipynb" in good
    assert f"passed in {html_export.duration(found[1].seconds)}</strong>" in good
    assert 'href="a-good.html"' in good and 'href="a-good.ipynb"' in good
    assert "figure 2 of 2: left half" in good
    assert "All parameters at their defaults." in cards(pages[-1])["judge"]
    assert "Is &lt;one&gt; small?" in cards(pages[-1])["judge"]


@pytest.mark.process
def test_a_card_says_what_went_wrong(ran: Any) -> None:
    _, _, pages = ran
    failed, partial = cards(pages[-1])["b-failed"], cards(pages[-1])["c-partial"]
    assert "AssertionError: 7.0 is above 5" in failed and "✗ failed" in failed and "not run" not in failed
    assert "measured 2.3333" in failed
    # More than there are: the last.
    assert "figure 2 of 2" in failed
    assert (
        "too &lt;large&gt;; 2 code cells were not run" in partial and "✗ partial" in partial and "<pre>" not in partial
    )
    assert "figure 1 of 1: Loss" in partial
    alert = re.search(r'<p class="alert" role="alert">(.*?)</p>', pages[-1], re.DOTALL)
    assert alert is not None and alert[1].count("<strong>") == 2
    assert 'role="alert"' not in pages[1]


@pytest.mark.process
def test_a_report_without_figures_says_so(ran: Any) -> None:
    assert "no figure" in cards(ran[2][-1])["plain"]
    assert "<figure" not in cards(ran[2][-1])["plain"]


@pytest.mark.process
def test_the_index_names_what_it_was_measured_on(ran: Any) -> None:
    labels = re.findall(r"<dt>(.*?)</dt>", ran[2][-1])
    assert labels == ["date", "commit", "versions", "machine", "duration"]


@pytest.mark.process
def test_the_index_holds_plotly_once_and_loads_nothing(ran: Any) -> None:
    page = ran[2][-1]
    assert page.count('id="plotly"') == 1 and page.count('data-plotly="still"') == 4
    assert "content=\"default-src 'none'" in page
    assert (
        re.findall(
            r"<(?:link|img|iframe|script src)", page.replace(page[page.index('<script type="application/gzip"') :], "")
        )
        == []
    )


@pytest.mark.process
def test_every_link_leads_somewhere(ran: Any) -> None:
    out, _, pages = ran
    links = re.findall(r'href="([^"]*)"', pages[-1][: pages[-1].index('id="plotly"')])
    assert len(links) >= 3 * len(ORDER)
    for link in links:
        if link.startswith("#"):
            assert f'id="{link[1:]}"' in pages[-1]
        else:
            assert (out / link).exists()


@pytest.mark.process
def test_the_command_runs_all_and_names_each_failure(here: Path, capsys: Any) -> None:
    for name in ("judge", "a-good", "c-partial"):
        (here / "reports" / f"{name}.yaml").unlink()
    assert main(["report", "--all", "--out", "there", "--workers", "1"]) == 1
    printed = capsys.readouterr()
    assert printed.out == "there/index.html  (1 of 2 reports passed)\n"
    lines = [line for line in re.split(r"[\n\r]", printed.err) if line.startswith(("[", "rislab:"))]
    assert [re.sub(r"in \d+ s", "in … s", line) for line in lines] == [
        "[1/2] plain: Is it plain?",
        "[1/2] plain passed in … s",
        "[2/2] b-failed: Is 7 small?",
        "[2/2] b-failed failed in … s",
        "rislab: b-failed: cell 4 (print(f'measured {value / 3:.4f} <b>{word}</b>')): AssertionError: 7.0 is above 5",
    ]
    (here / "reports" / "b-failed.yaml").unlink()
    assert main(["report", "--all", "--out", "there"]) == 0
    # What no longer belongs to the gallery is not shown, though its files are still there.
    assert list(cards((here / "there" / "index.html").read_text(encoding="utf-8"))) == ["plain"]


@pytest.mark.process
def test_an_interrupt_leaves_an_index_that_is_true(here: Path) -> None:
    notebook(here, "03_slow", code("print('begun')"), code("import time\ntime.sleep(600)"))
    named(here, "slow", "notebook: slow\ntitle: Is it slow?\n")
    for name in ("judge", "a-good", "b-failed", "c-partial"):
        (here / "reports" / f"{name}.yaml").unlink()
    command = [sys.executable, "-m", "rislab.cli", "report", "--all"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("[1/2] plain passed"):
            break
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=900)
    assert process.returncode == 130, said
    # A kernel stopped in the middle of a cell may complain of its sockets; a traceback of ours would name main().
    assert "rislab: interrupted" in said and "cli.py" not in said
    out = here / "reports" / "out"
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "2 reports: 1 passed, 1 not run." in page
    assert sorted(path.name for path in out.iterdir()) == ["index.html", "plain.html", "plain.ipynb"]


# --------------------------------------------------------------------------------------------------------- miniatures


def test_a_miniature_keeps_the_traces_and_drops_the_words() -> None:
    figure = {
        "data": [
            {"x": [1, 2], "y": [3, 4], "name": "curve", "marker": {"size": 10, "color": "red"}},
            {"type": "heatmap", "z": [[1, 2]], "zmin": -40},
        ],
        "layout": {
            "title": {"text": "A title"},
            "height": 1000,
            "width": 900,
            "annotations": [{"text": "a note"}],
            "updatemenus": [{}],
            "sliders": [{}],
            "legend": {"x": 1},
            "margin": {"t": 99},
            "xaxis": {"title": {"text": "steps"}, "type": "log", "range": [0, 2], "domain": [0, 0.5]},
            "yaxis2": {"title": {"text": "NMSE"}, "tickvals": [1]},
            "coloraxis": {"cmin": -40, "colorbar": {"title": "dB"}},
            "shapes": [{"y0": 1}],
        },
    }
    before = copy.deepcopy(figure)
    small = miniatures.miniature(figure)
    assert figure == before
    assert [[trace.get(axis) for axis in "xyz"] for trace in small["data"]] == [
        [[1, 2], [3, 4], None],
        [None, None, [[1, 2]]],
    ]
    assert small["data"][0]["marker"] == {"size": 6.0, "color": "red"}
    assert small["data"][1]["showscale"] is False and small["data"][1]["zmin"] == -40
    layout = small["layout"]
    assert {"title", "annotations", "updatemenus", "sliders", "legend", "width"}.isdisjoint(layout)
    assert layout["xaxis"]["type"] == "log" and layout["xaxis"]["range"] == [0, 2]
    assert layout["xaxis"]["domain"] == [0, 0.5] and layout["xaxis"]["title"]["text"] == ""
    assert layout["yaxis2"]["showticklabels"] is False
    assert layout["coloraxis"]["cmin"] == -40 and layout["coloraxis"]["showscale"] is False
    assert layout["shapes"] == [{"y0": 1}] and layout["showlegend"] is False and layout["height"] == 260
    assert "steps" not in json.dumps(small) and "A title" not in json.dumps(small)


def test_a_miniature_of_nothing_is_nothing() -> None:
    assert miniatures.miniature({})["data"] == []


# ------------------------------------------------------------------------------------------------------ in a browser


@pytest.mark.process
def test_the_index_opens_offline_and_every_link_works(ran: Any) -> None:
    from tests.browser.chromium import launched

    out = ran[0]
    asked: list[str] = []
    said: list[str] = []
    with launched() as chromium:
        context = chromium.new_context(viewport={"width": 1280, "height": 900})
        context.set_offline(True)
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto((out / html_export.INDEX).as_uri())
        page.wait_for_function("document.querySelectorAll('.js-plotly-plot .main-svg').length >= 4")
        assert page.locator(".js-plotly-plot").count() == 4
        # Text within the drawings: all of it was to be left out.
        assert page.locator(".js-plotly-plot svg text").all_text_contents() == []
        assert page.locator(".js-plotly-plot .modebar").count() == 0
        for width in (1280, 1920, 700):
            page.set_viewport_size({"width": width, "height": 900})
            page.wait_for_function(
                """width => {
                  const of = (selector) => document.querySelector(selector).getBoundingClientRect().width;
                  return document.documentElement.scrollWidth <= width &&
                    Math.abs(of(".js-plotly-plot .main-svg") - of("article figure")) <= 1;
                }""",
                arg=width,
            )
        page.set_viewport_size({"width": 1280, "height": 900})
        Path("reports/out").mkdir(parents=True, exist_ok=True)
        page.screenshot(path="reports/out/test-gallery.png", full_page=True)
        links = page.locator("article a[href$='.html']").evaluate_all("links => links.map(link => link.href)")
        assert len(set(links)) == len(ORDER)
        for link in sorted(set(links)):
            page.goto(link)
            assert page.locator("h1").count() == 1
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    assert said == []


def test_a_still_figure_differs_from_a_live_one() -> None:
    assert 'data-plotly="still"' in html_export.figure_html(
        CURVE, still=True
    ) and 'aria-label="x"' in html_export.figure_html(CURVE, label="x")
    assert 'data-plotly="live"' in html_export.figure_html(CURVE) and 'role="img"' in html_export.figure_html(CURVE)
