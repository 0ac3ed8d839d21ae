# make lab · make report · make test · make bench · make mutants; each installs into .venv first if need be.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: lab report test bench mutants lint clean

lab: .venv/installed
	$(BIN)/jupyter lab --ServerApp.ip=127.0.0.1 --ServerApp.root_dir="$(CURDIR)" --LabApp.default_url=/lab/tree/notebooks/00_start.ipynb

report: .venv/installed
	$(BIN)/rislab report overfit -p preset full

# Two processes of one thread each; a file stays in one process, since its fixtures are costly, and the files come in
# their order, since those with the fewest tests take the longest.
test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: .venv/installed-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: .venv/installed-bench
	$(BIN)/python -m pytest tests/benchmarks --benchmark-only -s

# What the checkup says of every mutant of the loop, into reports/: mutants.md, confusion.md, innocent.md.
mutants: .venv/installed-test
	$(BIN)/python -m tests.mutation

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("rislab needs Python 3.11 or newer, and $(PYTHON) is " + sys.version.split()[0] + ": try make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[tune]'
	touch $@

.venv/installed-test: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	touch $@

.venv/installed-bench: .venv/installed-test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[anchors]'
	touch $@

clean:
	rm -rf .venv reports/out
