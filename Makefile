# `make help` lists the targets. Nothing here needs more than Python 3.11 with venv; uv, where installed, is faster.
# Say PYTHON=... for another interpreter, UV= to do without uv, JOBS=... for more test processes, ARGS=... for options.

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow lint lab bench mutants jupyter lock docs clean browser
.DELETE_ON_ERROR:

VENV ?= .venv
BIN := $(VENV)/bin
MUTMUT := .venv-mutmut
JOBS ?= 2
ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(or $(firstword $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c '$(ENOUGH)' 2>/dev/null && command -v $$p; done)),\
	$(error Python 3.11 or newer is needed: install it, or say where it is: make $(MAKECMDGOALS) PYTHON=/path/to/python3))
UV ?= $(shell uv --version >/dev/null 2>&1 && echo uv)

# A kernel named python3 in the user's own folder must not run our notebooks, and pip needs no advice to upgrade itself.
export JUPYTER_PREFER_ENV_PATH := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

setup: $(VENV)/.complete ## the environment in .venv, with everything that developing needs

demo: $(VENV)/.runtime ## an experiment's whole life, on a simulated clock; ends by saying where the report is
	$(BIN)/cro demo $(ARGS)

test: $(VENV)/.complete browser ## every kind of test, small where size takes time, and every notebook; ends by saying what it left out
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist worksteal --nbmake $(ARGS)

test-slow: $(VENV)/.complete browser ## the rest: what test leaves out, and at its full size what it reduces
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist worksteal --full $(ARGS)

lint: $(VENV)/.complete ## ruff, mypy, and that notebooks carry no output
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/nbstripout --verify notebooks/*.ipynb

lab: $(VENV)/.runtime ## the full table of promises, simulated; writes docs/lab.md
	$(BIN)/cro lab targets --seed 20261124 --jobs $(JOBS) --output docs/lab.md $(ARGS)

bench: $(VENV)/.complete ## how long the heavy parts take; ARGS for its options
	for file in benchmarks/*.py; do $(BIN)/python $$file $(ARGS) || exit 1; done

mutants: $(MUTMUT)/.complete ## plants faults and says which no test finds: 150 of the rooms that decide; ARGS for other draws
	nice -n 19 $(MUTMUT)/bin/python tools/mutants.py $(or $(ARGS),--sample 150)

jupyter: $(VENV)/.runtime ## JupyterLab on the notebooks
	$(BIN)/jupyter lab --notebook-dir notebooks $(ARGS)

lock: ## requirements.lock anew from pyproject.toml (needs uv; ARGS=--upgrade for newer versions)
	uv pip compile --universal --python-version 3.11 --extra dev --extra postgres --generate-hashes --no-strip-extras \
		--no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' --quiet $(ARGS) \
		--output-file requirements.lock pyproject.toml

docs: $(VENV)/.complete ## the parts of docs/ that are made of declarations and docstrings: settings, commands, the index of rooms
	for page in settings commands architecture; do \
		$(BIN)/python tools/$${page}_page.py > $(VENV)/page.md && cp $(VENV)/page.md docs/$$page.md || exit 1; done

clean: ## removes the environment, caches and builds; data/ and reports/ stay
	rm -rf $(VENV) $(MUTMUT) mutants build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

browser: $(VENV)/.complete
	@$(BIN)/python tests/helpers/browser.py

# Two stamps: the complete environment serves where the smaller one would do.
LOCKED := requirements.lock pyproject.toml tools/runtime_lock.py

$(VENV)/.runtime: $(LOCKED)
	$(environment)
	$(BIN)/python tools/runtime_lock.py > $(VENV)/runtime.lock
	$(call install,$(VENV)/runtime.lock)
	touch $@

$(VENV)/.complete: $(LOCKED)
	$(environment)
	$(call install,requirements.lock)
	touch $(VENV)/.runtime $@

# The tester of tests stands in an environment of its own, which sees the other: the project never depends on it.
$(MUTMUT)/.complete: $(VENV)/.complete
	$(BIN)/python -m venv $(MUTMUT)
	$(MUTMUT)/bin/python -m pip install --quiet mutmut==3.8.1
	where='import sysconfig; print(sysconfig.get_path("purelib"))'; \
		$(BIN)/python -c "$$where" > "$$($(MUTMUT)/bin/python -c "$$where")/project.pth"
	touch $@

environment = $(if $(UV),[ -x $(BIN)/python ] || $(UV) venv --python $(PYTHON) $(VENV),\
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV))
pip = $(if $(UV),$(UV) pip install --python $(BIN)/python,$(BIN)/python -m pip install)
define install
$(pip) --require-hashes --requirement $(1)
$(pip) --no-deps --no-build-isolation --editable .
endef
