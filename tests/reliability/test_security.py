"""What others may put into a parameter, a file or a name runs no code and writes no page of its own."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from rislab.reports import notebooks, runner

SOURCE = Path(__file__).resolve().parents[2] / "rislab"
EVIL = [
    "'; open('{trap}', 'w'); '",
    '"; open("{trap}", "w"); "',
    "\\'; open('{trap}', 'w') #",
    '"""; open("{trap}", "w"); """',
    "\nopen('{trap}', 'w')\n",
    "\\",
    "{{open('{trap}', 'w')}}",
    "%run {trap}",
    "!touch {trap}",
    "\u2028open('{trap}', 'w')",
    "\r\nopen('{trap}', 'w')",
    "__import__('os').system('touch {trap}')",
]

PARAMETERS = 'word: str = "plain"\nnumber: float = 1.0\nwords: list[str] = ["a"]\nflag: bool = True'


EACH = "".join(f'\nword_{number}: str = ""' for number in range(len(EVIL)))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lab")
    cells = [
        new_markdown_cell("# A page"),
        new_code_cell(PARAMETERS + EACH, metadata={"tags": ["parameters"]}),
        new_code_cell(f"print(word, number, words, [globals()[f'word_{{n}}'] for n in range({len(EVIL)})])"),
        new_code_cell("assert number < 2, word"),
    ]
    nbformat.write(new_notebook(cells=cells), folder / "01_page.ipynb")
    return folder


@pytest.mark.process
def test_a_parameter_is_data_however_it_is_written(lab: Path, tmp_path: Path) -> None:
    """All at once: each as the value of a text, and all in a list of texts."""
    trap = tmp_path / "trap"
    texts = [text.replace("{trap}", str(trap)) for text in EVIL]
    path = notebooks.find_notebook("page", lab)
    for word in texts:
        assert notebooks.parse_values(path, {"word": word}) == {"word": word}
    values = {"words": texts} | {f"word_{number}": text for number, text in enumerate(texts)}
    report = runner.run_notebook("page", values, out=tmp_path / "out", folder=lab, progress=False)
    assert report.ok, report.error
    cells = json.loads(report.notebook.read_text())["cells"]
    printed = "".join("".join(output.get("text", [])) for cell in cells for output in cell.get("outputs", []))
    assert printed.count(repr(texts)) == 2
    assert not trap.exists()


def test_numbers_and_flags_take_no_code(lab: Path, tmp_path: Path) -> None:
    from rislab.errors import InputError

    path = notebooks.find_notebook("page", lab)
    for name in ("number", "flag", "words"):
        for text in ("__import__('os')", "1;print(1)", "[print(1)]()", "{open('x')}"):
            with pytest.raises(InputError):
                notebooks.parse_values(path, {name: text})


@pytest.mark.process
def test_a_page_shows_what_users_wrote_as_text(lab: Path, tmp_path: Path) -> None:
    word = "<script>alert(1)</script><img src=x onerror=alert(2)>&amp;\"'</title>"
    report = runner.run_notebook(
        "page", {"word": word, "number": 3.0}, out=tmp_path, folder=lab, progress=False, saved_as="a", question=word
    )
    assert not report.ok
    page = report.html.read_text()
    own = re.sub(r"<script>.*?</script>", "", page, flags=re.S)  # those of the page itself hold no text of users
    assert "<img src=x" not in own and "alert(1)</script>" not in own
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in own
    scripts = re.findall(r"<script[^>]*>", page)
    assert all(tag in ("<script>", '<script type="application/json">') for tag in scripts)
    assert "Content-Security-Policy" in page and "connect-src" not in page.split("Content-Security-Policy")[1][:300]


def test_no_line_of_ours_loads_code_from_data() -> None:
    """pickle, eval, yaml.load and the like have no place here; a test reads every line, comments aside."""
    for path in SOURCE.rglob("*.py"):
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            code = line.split("#")[0]
            assert not re.search(r"\b(pickle|marshal|shelve|dill|joblib)\.(load|loads|Unpickler)\b", code), (
                path,
                number,
            )
            assert "shell=True" not in code and "os.system(" not in code, (path, number)
            if "torch.load(" in code:
                assert "weights_only=True" in code, (path, number)
            if "yaml.load(" in code:
                assert "SafeLoader" in code or "BaseLoader" in code, (path, number)
            if re.search(r"(?<![.\w])(eval|exec)\(", code):
                # The package of a fault, the examples of rules and the solutions of exercises are our own source;
                # script.py runs the user's script, and sandbox.py a student's answer in a process with limits.
                ours = {"patching.py", "example_loops.py", "rule_examples.py", "code_checks.py"}
                assert path.name in ours | {"script.py", "sandbox.py"}, (path, number, line)
