# The same commands as the tasks in pixi.toml, in an environment of their own in .venv.
# Another Python than python3:  make setup PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed
DOCS_STAMP := $(VENV)/.installed-docs

export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: setup tune test test-hosts test-lowest test-all fuzz lint bench doctor generate-check docs clean

setup: $(STAMP)

tune: $(STAMP)
	moetune tune granite-3.0-1b-a400m --tokens 1,16,128 --time 2m

test: $(STAMP)
	python -m pytest -q -n 2 -m 'not slow and not timed' && python -m pytest -q -m 'timed and not slow'

# The tests that need no compiler, as on each of the machines of tests/hosts.py.
test-hosts: $(STAMP)
	python -m tests.hosts

# The tests that need no compiler with the lower bounds of pyproject.toml, all at once, in .venv-lowest.
test-lowest: $(STAMP)
	python -m tests.lowest

test-all: $(STAMP)
	python -m pytest -q -n 2 -m 'not timed' && python -m pytest -q -m timed

# Properties of what is read from outside, each with 20 times as many examples, new ones each time.
fuzz: $(STAMP)
	MOETUNE_FUZZ=20 python -m pytest -q -n 2 -m fuzz

lint: $(STAMP)
	ruff check . && ruff format --check . && mypy && lint-imports

bench: $(STAMP)
	python benchmarks/cpu_peers.py

doctor: $(STAMP)
	moetune doctor

generate-check: $(STAMP)
	moetune generate --check

# The documentation as a site, in build/docs.
docs: $(DOCS_STAMP)
	mkdocs build --strict

# Removes what these commands made; tuned results and the compile cache are the user's.
clean:
	rm -rf $(VENV) $(VENV)-lowest build dist .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Installs the project with some of its extras. Both installers are held to the constraints, or torch
# comes as the newest CUDA build, several GB; uv takes CPU builds when it is told to.
define install
	if command -v uv >/dev/null; \
	then UV_TORCH_BACKEND=cpu uv pip install --quiet --python $(VENV)/bin/python \
	--constraint tests/constraints.txt --editable '.[$(1)]'; \
	else $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
	--constraint tests/constraints.txt --editable '.[$(1)]'; \
	fi
	touch $@
endef

$(STAMP): pyproject.toml tests/constraints.txt | $(VENV)/bin/python
	$(call install,test)

$(DOCS_STAMP): pyproject.toml tests/constraints.txt | $(VENV)/bin/python
	$(call install,docs)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || \
	{ echo "$(PYTHON): Python 3.11, 3.12 or 3.13 is needed; make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	if command -v uv >/dev/null; \
	then uv venv --quiet --seed --python $(PYTHON) $(VENV); \
	else $(PYTHON) -m venv $(VENV); \
	fi
