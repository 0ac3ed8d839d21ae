# make lab · report · quick · test · bench · mutants · scoreboard · soak · docs · figures · audit · cover; each installs into .venv first if need be.
PYTHON ?= python3
BIN := .venv/bin
# An environment of another Python is made anew; one of the same is brought up to date.
VERSION := 'import sys; print(sys.version_info[:2])'
# For pip: with --index-url or --find-links that offer it, the small CPU build of torch instead of gigabytes for GPUs.
PIP_OPTIONS ?=
comma := ,
# The sizes that pip names, added up; what it said stays in the log.
define install
@echo "installing $(1) into .venv; see .venv/install.log"
@$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off $(PIP_OPTIONS) --constraint constraints.txt \
	--editable '$(1)' >.venv/install.log 2>&1 || { tail -n 20 .venv/install.log; exit 1; }
@awk '/(Downloading|Using cached).*\([0-9.]+ [kMG]B\)/ { n = $$(NF - 1); sub(/\(/, "", n); \
	sum += n * ($$NF ~ /^k/ ? 0.001 : $$NF ~ /^G/ ? 1000 : 1) } END { printf "packages: %.0f MB\n", sum }' .venv/install.log
endef

.PHONY: lab report quick quick-tests test bench mutants scoreboard soak docs audit cover picture figures readme lint style types tests clean

lab: .venv/installed
	$(BIN)/rislab lab

report: .venv/installed
	$(BIN)/rislab report overfit -p preset full

# Compiled files stay, or every process of every run would rewrite all assertions anew.
unexport PYTHONDONTWRITEBYTECODE

# Processes of one thread; a file stays in one of them, since its fixtures are costly.
PYTEST := $(BIN)/python -m pytest --dist loadfile --no-loadscope-reorder
# One more than two cores: kernels and pages are often waited for.
TESTS := $(PYTEST) -n 3 --durations=25 --durations-min=3

# How long a command took, for `make figures`; not $(MAKE), which `make -n` would run.
TIMED := $(BIN)/python -m tests.figures.timed

# What is fast, starts no kernel, browser, server or process that imports torch, and of a test with many cases two.
quick: style
	@$(TIMED) "make quick" make --no-print-directory --jobs 2 types quick-tests

quick-tests: .venv/installed-test
	RISLAB_CASES=2 $(PYTEST) -n 2 -m "not process and not slow"

# Types beside the tests: without the cache of an earlier run they take half a minute of one core.
test: style
	@$(TIMED) "make test" make --no-print-directory --jobs 2 types tests

tests: .venv/installed-test
	$(TESTS)

lint: style types

style: .venv/installed-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: .venv/installed-test
	$(BIN)/mypy

# NumPy has one thread, as torch has where the two are compared.
bench: .venv/installed-bench
	mkdir -p reports/out
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest tests/benchmarks --benchmark-only -s --benchmark-json=reports/out/benchmarks.json

# Asked and measured, into reports/figures.md; with the benchmarks of the last `make bench`.
figures: .venv/installed-test
	$(BIN)/python -m tests.figures

# The numbers of the README, from reports/readme.json.
readme: .venv/installed-test
	$(BIN)/python -m tests.readme

# What the checkup says of every mutant of the loop, into reports/: mutants.md, confusion.md, innocent.md.
mutants: .venv/installed-test
	$(BIN)/python -m tests.mutation

# What every tool says of every case of tests/corpus, into reports/: scoreboard.md, scoreboard.json.
scoreboard: .venv/installed-test
	$(BIN)/python -m tests.corpus

# What takes too long for every test: a hundred kills, ten thousand fuzzed inputs, ten minutes of a panel, all pairs and programs
# of the corpus, all combinations of a correct loop, Run All of all students' copies as they are handed out, figures of all reports
# at two widths, all mutants.
soak: .venv/installed-test
	RISLAB_SOAK=1 RISLAB_KILLS=20 $(TESTS) tests/reliability tests/corpus tests/tuning/test_search.py tests/notebooks \
		tests/reports/test_classroom.py tests/checkup/test_loop_watch.py
	$(MAKE) mutants

# The documentation as pages that open from disk: reports/out/docs/index.html. Red if a link leads nowhere.
docs: .venv/installed-test
	$(BIN)/python -m docs.site reports/out/docs

# Known vulnerabilities of the tested set; red too where the list of them cannot be reached.
audit: .venv/installed-test
	$(call install,.[audit])
	@$(BIN)/python -m pip_audit --strict --no-deps --disable-pip --requirement constraints.txt 2>.venv/audit.log || \
		{ tail -n 1 .venv/audit.log; echo "audit: a vulnerability is named above, or their list was not reached (.venv/audit.log)"; exit 1; }

cover: .venv/installed-test
	$(call install,.[cover])
	$(TESTS) --cov=rislab --cov-report=term --cov-fail-under=90

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("rislab needs Python 3.11 or newer, and $(PYTHON) is " + sys.version.split()[0] + ": try make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	@test "$$($(BIN)/python -c $(VERSION) 2>/dev/null)" = "$$($(PYTHON) -c $(VERSION))" || $(PYTHON) -m venv --clear .venv
	$(call install,.[lab$(comma)tune])
	touch $@

.venv/installed-test: .venv/installed
	$(call install,.[test])
	touch $@

.venv/installed-bench: .venv/installed-test
	$(call install,.[anchors])
	touch $@

# The picture of the README, from runs of the lab itself.
picture: .venv/installed-test
	$(BIN)/python -m tests.picture

clean:
	rm -rf .venv .venv-rivals reports/out
