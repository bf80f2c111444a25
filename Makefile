# make demo and make test set up all they need on a machine that has only Python 3.11 or newer.
# The first of these that is one, with venv; or name yours: make PYTHON=/opt/python/bin/python3
PYTHON ?= python3.11 python3.12 python3.13 python3 python
FOUND = $(shell for p in $(PYTHON); do $$p -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test sc2 docs docs-test dist dist-check learn soak bench lint clean

$(READY): pyproject.toml constraints.txt
	$(or $(FOUND),$(error no Python 3.11 or newer with its venv was found ($(PYTHON)); install one or name it: make PYTHON=/path/to/python3)) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,dev]'
	touch $(READY)

# Train protoss_5v5 briefly, export, deploy, print the verdict.
demo: $(READY)
	$(BIN)/agentmixer train smacv2 protoss_5v5 --steps 300000
	$(BIN)/agentmixer export --per-agent onnx
	$(BIN)/agentmixer deploy-sim

# Two processes of one thread each: these networks gain nothing from threads, and tests wait for processes a lot.
# Modules stay whole and in the order of tests/conftest.py, the longest first.
test: $(READY) lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope

# What the real game needs of the package registry; `agentmixer doctor` says what else. pysc2 asks for an old protobuf and for
# much that the game does not use, so it comes without what it asks for.
sc2: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,dev,sc2]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps pysc2

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The learning claims: slow, several seeds. Figures go to docs/results.md by hand, with command and commit.
learn: $(READY)
	$(BIN)/python -m pytest -m learn -s

# What shows only in the long run: 100,000 malformed frames, and a team that steps for AGENTMIXER_SOAK_MINUTES (60).
soak: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m soak -s

# Speed: one table of ratios, each against something measured in the same run. Needs a bundle (make demo leaves one).
bench: $(READY)
	$(BIN)/python benchmarks/table.py

# The site, in site/: it opens from the folder. A broken link fails. The variable leaves out a notice of the theme's authors.
docs: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,dev,docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

# Every command of README and docs, run with training cut short.
docs-test: $(READY)
	$(BIN)/python -m pytest -m docs

# The wheel and the source archive, in dist/.
dist: $(READY)
	rm -rf dist
	PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/python -m build --quiet

# The same, used in empty environments: the three commands with [train], verify and Agent.load without.
dist-check: dist
	$(BIN)/python -m pytest -m dist

clean:
	rm -rf $(VENV) dist site .pytest_cache .mypy_cache .ruff_cache
