"""The lab for a class: grades without running code, copies that lose nothing, servers closed by default."""

from __future__ import annotations

import csv
import io
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_notebook, new_output

from rislab.cli.main import main
from rislab.errors import InputError
from rislab.faults.exercises import EXERCISES, points, same_code
from rislab.faults.quiz import answer_key
from rislab.reports import grading, notebooks, servers, system_calls
from rislab.reports.classroom import student_notebook
from rislab.reports.hand_ins import HandIn, answers_of
from rislab.reports.sandbox import Outcome

ALL_POINTS = sum(map(points, EXERCISES.values()))


def handed_in(path: Path, *cells: str, outputs: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    code = [new_code_cell(cell) for cell in cells]
    for cell in code if outputs else ():
        cell.outputs = [new_output("stream", text=outputs)]
    nbformat.write(new_notebook(cells=code), path)


def rows_of(text: str) -> dict[str, dict[str, str]]:
    return {row["student"]: row for row in csv.DictReader(io.StringIO(text))}


def solution_of(name: str) -> str:
    return f"{EXERCISES[name].solution}\nlesson.check({name!r}, {EXERCISES[name].function})"


# ----------------------------------------------------------------------------------------------------------- the grades


def test_a_class_is_graded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class_ = tmp_path / "class"
    handed_in(
        class_ / "ada" / "04.ipynb",
        "answer = 1  # a number\nexercises.check('suspect', answer)",
        "answer = 'SGD'\nlesson.check(\"optimiser\", answer)",
        "answer = 22 / 2\ncheck('effective', answer)",
        "answer = 1\nanswer = -(3 + 0)\ncheck('ragged', answer)",
        f"answer = {answer_key(1)[:3] + ['x'] * 3!r}\nlesson.check('quiz', answer)",
        solution_of("weights"),
        "answer = 1\ncheck('from an older version', answer)",
    )
    handed_in(class_ / "ada" / "again" / "03.ipynb", "answer = open('/etc/passwd').read()\ncheck('column', answer)")
    handed_in(class_ / "ada" / ".ipynb_checkpoints" / "04.ipynb", "answer = 0\ncheck('suspect', answer)")
    # An empty copy beside the one that was worked on takes nothing away.
    handed_in(class_ / "ada" / "z.ipynb", "answer = None\ncheck('suspect', answer)")
    handed_in(class_ / "=cmd.ipynb", "answer = 'adam'\ncheck('optimiser', answer)", "answer = (\ncheck('suspect'")
    handed_in(class_ / "liar.ipynb", "answer = 'adam'\ncheck('optimiser', answer)", outputs="right (★, 1 point)\n")
    (class_ / "broken.ipynb").write_text((class_ / "liar.ipynb").read_text()[:200])
    (class_ / "blank.ipynb").write_text("")
    (class_ / "nothing").mkdir()
    with (class_ / "huge.ipynb").open("wb") as huge:
        huge.truncate(100 << 20)
    assert main(["grade", str(class_), "-o", str(tmp_path / "out")]) == 0
    assert "1 answers are code that was not run, and earn nothing: --run judges" in capsys.readouterr().err
    rows = rows_of((tmp_path / "out" / "grades.csv").read_text())
    assert set(rows) == {"ada", "'=cmd", "liar", "broken", "blank", "nothing", "huge"}
    ada = rows["ada"]
    assert (ada["suspect"], ada["optimiser"], ada["effective"], ada["quiz"]) == ("1", "1", "1", "3")
    assert (ada["ragged"], ada["column"], ada["zeroed"], ada["weights"]) == (
        "0",
        "not readable",
        "not there",
        "not run",
    )
    assert ada["points"] == "6" and ada["of"] == str(ALL_POINTS)
    assert "not handed in: localise, music" in ada["missing"] and "cells that are gone" in ada["missing"]
    assert "does not know: from an older version" in ada["remarks"]
    assert rows["'=cmd"]["optimiser"] == "0" and rows["'=cmd"]["suspect"] == "not there"
    assert "the output says right, the answer is not: optimiser" in rows["liar"]["remarks"]
    assert "not a notebook" in rows["broken"]["remarks"] and "is empty" in rows["blank"]["remarks"]
    assert rows["nothing"]["missing"] == "nothing was handed in" and "has 100 MB" in rows["huge"]["remarks"]
    report = json.loads((tmp_path / "out" / "gradescope" / "ada.json").read_text())
    assert report["score"] == 6 and sum(test["max_score"] for test in report["tests"]) == ALL_POINTS
    assert {"score": 1, "status": "passed"}.items() <= report["tests"][list(EXERCISES).index("suspect")].items()


def test_notebooks_that_were_not_given_do_not_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class_, given = tmp_path / "class", [name for name, one in EXERCISES.items() if one.notebook == "fault_clinic"]
    handed_in(class_ / "ada" / "04_fault_clinic.ipynb", "answer = 1\ncheck('suspect', answer)")
    handed_in(class_ / "ada" / "05_music.ipynb", "answer = 1\ncheck('from nowhere', answer)")
    assert main(["grade", str(class_)]) == 0
    printed = capsys.readouterr()
    assert rows_of(printed.out)["ada"]["of"] == str(ALL_POINTS)
    assert "nobody handed in" in printed.err and "--notebooks" in printed.err
    assert main(["grade", str(class_), "--notebooks", "fault_clinic"]) == 0
    printed = capsys.readouterr()
    row = rows_of(printed.out)["ada"]
    assert list(row) == ["student", "points", "of", *given, "missing", "remarks"] and not printed.err
    assert row["of"] == str(sum(points(EXERCISES[name]) for name in given)) and "not handed in" not in row["missing"]
    assert main(["grade", str(class_), "--notebooks", "fault_clinc"]) == 2
    assert "allowed: " in capsys.readouterr().err


def test_whatever_is_handed_in_is_graded_or_refused_in_a_sentence(tmp_path: Path) -> None:
    """None of them ends the grading, or stands in the way of another one."""
    class_, out = tmp_path / "class", tmp_path / "out"
    right, blank = ("answer = 1\ncheck('suspect', answer)", "answer = None\ncheck('suspect', answer)")
    handed_in(class_ / "twice.ipynb", right)
    handed_in(class_ / "twice" / "x.ipynb", blank)
    handed_in(class_ / "blank after.ipynb", right, blank, "def weights(sizes):\n    pass\ncheck('weights', weights)")
    handed_in(class_ / "changed.ipynb", "answer = 2\ncheck('suspect', answer)", right)
    handed_in(class_ / "elsewhere.ipynb", "answer = 1", "check('suspect', answer)", outputs="right\n")
    handed_in(class_ / "added.ipynb", "answer = 1\nanswer += 1\ncheck('suspect', answer)")
    handed_in(class_ / "not python.ipynb", "answer = )\ncheck('suspect', answer)")
    handed_in(class_ / "no number.ipynb", "answer = 1 / 0\ncheck('suspect', answer)")
    handed_in(class_ / "hex.ipynb", f"answer = 0x{'f' * 9999}\ncheck('optimiser', answer)")
    handed_in(class_ / "deep.ipynb", f"a{'.b' * 700} = 1", right)
    handed_in(class_ / "surrogate.ipynb", right, "answer = 1\ncheck('\\ud800', answer)")
    handed_in(class_ / "much.ipynb", "a = 1;" * 50_000)
    handed_in(class_ / f"{'l' * 240}.ipynb", right)
    handed_in(class_ / "Twice.IPYNB", right)
    content = json.loads((class_ / "changed.ipynb").read_text())
    shapes: list[Any] = [[], {"cells": 1}, {"cells": [{"cell_type": "code"}, [], None]}]
    shapes.append({**content, "metadata": [], "cells": [{**content["cells"][1], "id": 5, "outputs": [None, {}]}]})
    for number, shape in enumerate(shapes):
        (class_ / f"shape {number}.ipynb").write_text(json.dumps(shape))
    (class_ / "windows.ipynb").write_bytes(json.dumps(content).encode("utf-16"))
    (class_ / "latin.ipynb").write_bytes(json.dumps(content).encode() + b"\xe9")
    (class_ / "folder.ipynb").mkdir()
    (class_ / "link.ipynb").symlink_to(class_ / "changed.ipynb")
    (class_ / "report.pdf").write_text("")
    os.mkfifo(class_ / "pipe.ipynb")
    os.makedirs(os.fsencode(class_) + b"/caf\xe9")
    grades, _ = grading.grade(class_)
    grading.write(grades, out)
    of = {one.student: (one.points, "; ".join([*one.missing, *one.remarks])) for one in grades}
    for student in ("twice", "blank after", "changed", "deep", "surrogate", "l" * 240, "Twice", "shape 3", "windows"):
        assert of[student][0] == 1, student
    for student, sentence in {
        "twice": "two hand-ins of one name",
        "changed": "answered more than once, and the last counts: suspect",
        "elsewhere": "the output says right, the answer cannot be read: suspect",
        "much": "characters of code",
        "shape 0": "no list of cells",
        "shape 1": "no list of cells",
        "shape 2": "holds no exercise",
        "latin": "not UTF-8",
        "folder.ipynb": "is a folder",
        "link": "is a link",
        "report": "is no notebook",
        "pipe": "is no notebook",
        "caf\udce9": "nothing was handed in",
    }.items():
        assert sentence in of[student][1], (student, of[student])
    unread = {one.student: mark.text for one in grades for mark in one.marks.values() if mark.verdict == "not readable"}
    expression = "answer is an expression"
    for student, sentence in {
        "elsewhere": expression,
        "added": expression,
        "not python": "its cell is not Python",
        "hex": "answer is a number of thousands of digits",
        "no number": "answer cannot be computed: float division by zero",
    }.items():
        assert unread.pop(student).startswith(sentence), student
    assert unread == {}
    assert len(list((out / "gradescope").iterdir())) == len(grades)


def test_the_exercises_of_the_notebooks_are_all_graded() -> None:
    """Each is there once, unanswered, its difficulty above it: no change of a cell loses one."""
    asked: list[str] = []
    for report, path in notebooks.available().items():
        notebook = notebooks.read_notebook(path)
        given, unknown, _ = answers_of(notebook)
        asked += given
        assert not unknown and {EXERCISES[name].notebook for name in given} == {report}
        for name, answer in given.items():
            exercise, number = EXERCISES[name], points(EXERCISES[name])
            assert same_code(answer.source, exercise.start) if exercise.kind == "code" else answer.empty
            place = next(k for k, cell in enumerate(notebook.cells) if f'check("{name}"' in cell.source)
            assert f"({exercise.mark}, {number} point{'s' * (number > 1)})" in notebook.cells[place - 1].source
    assert sorted(asked) == sorted(EXERCISES)


def test_no_code_of_a_student_runs_unasked(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    evil = f"__import__('pathlib').Path({str(trap)!r}).touch()"
    class_ = tmp_path / "class"
    for number, answer in enumerate((evil, f"[{evil}]", f"1 + len({evil})", "9**9**9", "'x' * 10**9", "1/0")):
        handed_in(class_ / f"s{number}.ipynb", f"{evil}\nanswer = {answer}\ncheck('suspect', answer)")
    assert {one.marks["suspect"].verdict for one in grading.grade(class_)[0]} == {"not readable"}
    handed_in(class_ / "s.ipynb", f"{evil}\ndef weights(sizes):\n    {evil}\ncheck('weights', weights)")
    assert grading.grade(class_)[0][0].marks["weights"].verdict == "not run"
    assert not trap.exists()


def test_it_is_said_where_no_kernel_refuses_anything(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(system_calls.platform, "machine", lambda: "another")
    assert not system_calls.refuse_in_this_process()
    monkeypatch.setattr(grading, "run_jobs", lambda jobs, seconds: [Outcome(True, "right") for _ in jobs])
    handed_in(tmp_path / "ada.ipynb", solution_of("weights"))
    assert "Python alone, since this kernel offers no filter" in grading.grade(tmp_path, run=True)[1][0]


@pytest.mark.slow
@given(st.text(max_size=80))
@settings(max_examples=300, deadline=None)
def test_any_cell_is_graded_without_an_exception(text: str) -> None:
    cells = [new_code_cell(f"answer = {text}\ncheck('effective', answer)"), new_code_cell(text)]
    hand_in = HandIn("any", answers_of(new_notebook(cells=cells))[0])
    for name in hand_in.answers:
        assert grading.mark_of(hand_in, name).verdict in grading.VERDICTS


def test_folders_without_notebooks_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="holds no notebook"):
        grading.grade(tmp_path)
    with pytest.raises(InputError, match="is no folder"):
        grading.grade(tmp_path / "nowhere")
    assert main(["grade", str(tmp_path), "--seconds", "3"]) == 2
    assert "allowed: with --run" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------------- the working copy


def test_a_working_copy_keeps_what_was_worked_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "my class"
    assert main(["lab", "--classroom", "--run", str(folder), "--prepare"]) == 0
    names = {path.name for path in notebooks.available().values()}
    assert names <= {path.name for path in folder.iterdir()}
    (folder / "01_overfit.ipynb").write_text("mine")
    (folder / "02_precision.ipynb").unlink()
    assert main(["lab", "--classroom", "--run", str(folder), "--prepare"]) == 0
    assert (folder / "01_overfit.ipynb").read_text() == "mine"
    assert (folder / "02_precision.ipynb").read_bytes() == student_notebook(notebooks.find_notebook("precision"))
    assert "1 files copied" in capsys.readouterr().out
    assert {path.name for path in folder.iterdir() if path.name.startswith(".")} == {servers.ORIGINALS}


def test_what_was_written_for_the_teacher_is_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without what makes the answers, which takes half a minute.
    monkeypatch.setattr("rislab.reports.classroom.teacher_notebook", lambda path, quiz_seed: path.read_bytes())
    monkeypatch.setattr("rislab.reports.classroom.key", lambda quiz_seed: "")
    assert main(["lab", "--teacher", "--run", str(tmp_path / "mine"), "--prepare"]) == 0
    assert f"and {len(notebooks.available())} notebooks with solutions" in capsys.readouterr().out


def test_a_working_copy_that_cannot_be_made_is_one_sentence(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "file").write_text("")
    originals = notebooks.find_notebook("start").parent
    for words, said in (
        (["lab", "--classroom", "--prepare", "--run", str(tmp_path / "file" / "x")], "cannot be used"),
        (["lab", "--classroom", "--prepare", "--run", str(originals)], "holds the originals"),
        (["lab", "--prepare"], "belong to a class"),
        (["lab", "--ip", "everywhere"], "ip is 'everywhere'"),
        (["lab", "--port", "70000"], "port is 70000"),
        (["app", "localise"], "has no live panel"),
        (["app", "musik"], "did you mean 'music'"),
    ):
        assert main(words) == 2, words
        err = capsys.readouterr().err
        assert said in err and len(err.splitlines()) == 1


# ---------------------------------------------------------------------------------------------------------- the servers


def test_an_address_that_others_reach_is_warned_of() -> None:
    for address in ("127.0.0.1", "127.0.0.53", "::1", "localhost"):
        assert not [
            text for text in servers.lab_command(Path("."), address=address).warnings if "other machines" in text
        ]
    for address in ("0.0.0.0", "192.168.1.7", "::"):
        assert "can be reached by other machines" in servers.lab_command(Path("."), address=address).warnings[0]


def test_the_token_is_not_among_the_words_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUPYTER_TOKEN", raising=False)
    one, other = servers.lab_command(Path(".")), servers.lab_command(Path("."))
    token = one.environment["JUPYTER_TOKEN"]
    assert len(token) == 48 and token != other.environment["JUPYTER_TOKEN"]
    assert token not in " ".join(one.command)
    monkeypatch.setenv("JUPYTER_TOKEN", "")
    assert len(servers.lab_command(Path(".")).environment["JUPYTER_TOKEN"]) == 48


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(command: list[str], folder: Path, **environment: str) -> Iterator[None]:
    """A server until the block ends; what it says is shown where a test fails."""
    with (folder / "said").open("w") as said:
        process = subprocess.Popen(
            command,
            stdout=said,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,
        )
        try:
            yield
        finally:
            os.killpg(process.pid, 15)
            try:
                process.wait(120)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)
            print((folder / "said").read_text()[-2000:])


def answer_of(url: str, seconds: float = 300.0) -> int:
    end = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url, timeout=300) as reply:
                return int(reply.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.3)


@pytest.mark.process
def test_a_lab_is_closed_whatever_the_users_own_configuration_says(tmp_path: Path) -> None:
    open_to_all = 'c.IdentityProvider.token = ""\nc.ServerApp.ip = "0.0.0.0"\nc.ServerApp.password = ""\n'
    for name in ("jupyter_server_config.py", "jupyter_lab_config.py"):
        (tmp_path / name).write_text(open_to_all)
    port = free_port()
    assert main(["lab", "--classroom", "--run", str(tmp_path / "work"), "--prepare"]) == 0
    words = [sys.executable, "-m", "rislab.cli", "lab", "--classroom", "--run", str(tmp_path / "work")]
    words += ["--no-browser", "--port", str(port)]
    with running(words, tmp_path, JUPYTER_CONFIG_DIR=str(tmp_path), JUPYTER_TOKEN="known"):
        address = f"http://127.0.0.1:{port}/api/contents"
        assert answer_of(address) == 403
        assert answer_of(f"{address}?token=wrong") == 403
        assert answer_of(f"{address}?token=known") == 200
        with urllib.request.urlopen(f"{address}?token=known") as reply:
            assert "01_overfit.ipynb" in {one["name"] for one in json.load(reply)["content"]}
        # Plain figures follow the theme before any panel was shown.
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/custom/custom.css?token=known") as reply:
            assert "js-plotly-plot" in reply.read().decode()
        own = {address[4][0] for address in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
        for other in own - {"127.0.0.1", "127.0.1.1"}:
            with socket.socket() as probe:
                probe.settimeout(2)
                assert probe.connect_ex((other, port)) != 0


# Beside the panel of the music page.
TRAINING = """
panel = rislab.panels.overfit(rislab.sanity.OverfitConfig(scenes=64, micro_batch=16, epochs=9))
panel
"""
# Only what is seen is drawn again; its plot is far below.
FINISHED = """(() => {
  document.querySelector(".js-plotly-plot")?.scrollIntoView();
  return document.body?.innerText.includes("finished: classroom, fp32, step 36");
})()"""
# As a visitor may try it: code, and after it something that is answered.
ASK = """trap => new Promise(done => {
  const kernel = JSON.parse(document.getElementById("jupyter-config-data").textContent).kernelId;
  const socket = new WebSocket(`ws://${location.host}/api/kernels/${kernel}/channels?session_id=visitor`);
  const send = (kind, content) => socket.send(JSON.stringify({
    header: {msg_id: kind, msg_type: kind, session: "visitor", username: "", version: "5.3", date: ""},
    parent_header: {}, metadata: {}, content, channel: "shell", buffers: [],
  }));
  socket.onopen = () => {
    send("execute_request", {code: `open(${JSON.stringify(trap)}, "w")`, silent: false});
    send("kernel_info_request", {});
  };
  socket.onmessage = event => {
    if (typeof event.data === "string" && event.data.includes("kernel_info_reply")) done("answered");
  };
})"""


@pytest.mark.process
def test_a_page_shows_panels_that_answer_and_no_code(tmp_path: Path) -> None:
    """It asks for nothing from elsewhere, runs nothing that a visitor sends, and finds its run when loaded again."""
    from tests.browser.chromium import launched
    from tests.browser.lab import until

    server = servers.app_command("music", tmp_path, port=free_port(), browser=False)
    page_file = tmp_path / "music.ipynb"
    notebook = nbformat.read(page_file, 4)
    notebook.cells.append(new_code_cell(TRAINING))
    nbformat.write(notebook, page_file)
    with running(server.command, tmp_path, **server.environment):
        answer_of(f"{server.address}voila/static/voila.js")
        assert {answer_of(server.address + path) for path in ("voila/files/music.ipynb", "api/contents")} <= {403, 404}
        with launched() as browser:
            page = browser.new_page(viewport={"width": 1280, "height": 1000})
            page.set_default_timeout(180_000)
            asked: list[str] = []
            page.on("request", lambda request: asked.append(request.url))
            page.goto(server.address, wait_until="commit")
            scene = page.locator(".rislab-scene")
            scene.locator(".source .ring").first.wait_for()
            before = page.inner_text("body")
            assert "import torch" not in page.content() and "rislab.panels" not in page.content()
            snapshots = scene.get_by_label("snapshots")
            snapshots.fill("4")
            snapshots.press("Enter")
            page.wait_for_function("before => document.body.innerText !== before", arg=before)
            until(page, FINISHED)
            assert page.evaluate(ASK, str(tmp_path / "trap")) == "answered" and not (tmp_path / "trap").exists()
            page.reload(wait_until="commit")
            until(page, FINISHED)
            begun = [path.parent.parent for path in (tmp_path / "runs").glob("*/*/config.yaml")]
            assert len(begun) == 1 and begun[0].name in page.url
            assert [url for url in asked if not url.startswith((server.address, "data:", "blob:"))] == []


def test_the_address_of_a_page_is_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(servers, "run_server", lambda server: 0)
    assert main(["app", "music", "--port", "8123"]) == 0
    assert capsys.readouterr().out == "http://127.0.0.1:8123/\n"
