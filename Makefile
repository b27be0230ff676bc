# Two commands, each from a bare checkout with python3 and make:
#   make demo   installs galstress into .venv and writes demo/report.html
#   make test   installs the judges and the linters too, and runs the tests
# The first run installs (some minutes); later runs call no pip until pyproject.toml or constraints.txt change.

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?= -n auto

BIN := $(VENV)/bin
EXTRAS := [judges,test,lint]
DEBIAN := on Debian and Ubuntu: apt-get install python3-venv

LINTERS := lint-style lint-format lint-types lint-layers

.PHONY: demo test lint $(LINTERS) format clean

demo: $(VENV)/.installed
	$(BIN)/galstress demo --output demo

test: $(VENV)/.installed-with-judges
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(LINTERS)
$(LINTERS): lint-%: $(VENV)/.installed-with-judges
	$(LINT_$*)

LINT_style = $(BIN)/python -m ruff check .
LINT_format = $(BIN)/python -m ruff format --check .
LINT_types = $(BIN)/python -m mypy
LINT_layers = $(BIN)/lint-imports

format: $(VENV)/.installed-with-judges
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

clean:
	rm -rf $(VENV) demo build

# With pip's own `--python` where the environment has no pip of its own (python3 without ensurepip).
define install
	@echo "installing galstress$(1) into $(VENV): once, some minutes"
	@if $(BIN)/python -c 'import pip' 2>/dev/null; then set -- $(BIN)/python -m pip; \
	else set -- $(PYTHON) -m pip --python $(BIN)/python; fi; \
	"$$@" install --quiet --constraint constraints.txt --editable '.$(1)'
endef

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(call install,)
	@touch $@

$(VENV)/.installed-with-judges: pyproject.toml constraints.txt | $(BIN)/python
	$(call install,$(EXTRAS))
	@touch $(VENV)/.installed $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	|| { echo "error: galstress needs Python 3.11 or newer, and '$(PYTHON)' is none; next: install one, or name it: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import venv' 2>/dev/null \
	|| { echo "error: '$(PYTHON)' lacks the module venv; next: install the package python3-venv ($(DEBIAN))" >&2; exit 1; }
	@if $(PYTHON) -c 'import ensurepip' 2>/dev/null; then $(PYTHON) -m venv --clear $(VENV); \
	elif $(PYTHON) -m pip install --help 2>/dev/null | grep -q -e --python; then $(PYTHON) -m venv --clear --without-pip $(VENV); \
	else echo "error: '$(PYTHON)' has neither ensurepip nor pip 22.3 or newer; next: install the package python3-venv ($(DEBIAN))" >&2; exit 1; fi
