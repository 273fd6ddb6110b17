# `make run` and `make test` are all a newcomer needs; both keep to .venv in this directory.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# Newer pips know a variable of its own for the build back end; older ones take the first for both.
PIP    := PIP_CONSTRAINT=$(CURDIR)/constraints.txt PIP_BUILD_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/pip install --quiet --disable-pip-version-check
ARGS   ?=
WORKERS ?= 2

.PHONY: run test check bench dist clean

run: $(VENV)/.installed
	$(BIN)/smtp-bridge demo $(ARGS)

# Two at a time, then those that measure time, with none beside them. With ARGS one process runs what they name.
test: $(VENV)/.test-installed
ifeq ($(strip $(ARGS)),)
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m 'not serial'
	$(BIN)/python -m pytest -m serial
else
	$(BIN)/python -m pytest $(ARGS)
endif

check: $(VENV)/.test-installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --strict bridge
	$(BIN)/python -m pytest tests/test_layout.py

bench: $(VENV)/.test-installed
	$(BIN)/python -m tests.bench $(ARGS)
	$(BIN)/python -m tests.bench.spool_depth
	$(BIN)/python -m tests.bench.history

# A source archive, and the wheel as a packager would build it from that archive.
dist: $(VENV)/.installed
	rm -rf dist && mkdir -p dist/tree
	$(PIP) hatchling
	$(BIN)/hatchling build -t sdist -d dist
	tar -xzf dist/*.tar.gz -C dist/tree --strip-components 1
	cd dist/tree && $(abspath $(BIN))/hatchling build -t wheel -d ..
	rm -r dist/tree

# What is known against the versions of constraints.txt. It asks a service on the internet; --strict: what could not be asked is a failure.
.PHONY: audit
audit:
	$(PYTHON) -m venv $(VENV)/audit
	$(VENV)/audit/bin/pip install --quiet --disable-pip-version-check pip-audit
	$(VENV)/audit/bin/pip-audit --strict --disable-pip --no-deps -r constraints.txt $(ARGS)

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	touch $@

$(VENV)/.test-installed: $(VENV)/.installed
	$(PIP) -e '.[test]'
	-command -v npm >/dev/null && npm install --silent --no-save --no-package-lock --prefix $(VENV)/node nodemailer@7 emulate@0.12.2 node@24 axe-core@4.14.1
	touch $@

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
