# `make demo` and `make test` each work as the first command: they make .venv when it is missing.
PYTHON ?= python3
WORKERS ?= 2
ARGS ?=

BIN := .venv/bin
# A stamp is written after its install has finished, so one that was interrupted is done again.
EXAMPLES := .venv/examples.stamp
DEV := .venv/dev.stamp
# The dev extra holds the examples extra: where it is installed, the demo has nothing to install.
DEMO := $(if $(wildcard $(DEV)),$(DEV),$(EXAMPLES))

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test check format clean
.NOTPARALLEL:

help:
	@echo "make demo    train SGD, Adam, Muon and INSGD on imbalanced digits (ARGS=\"--help\" for options)"
	@echo "make test    run the tests (ARGS=\"-k word\" is passed to pytest, \"-m long\" runs the long ones)"
	@echo "make check   ruff, pyright and the doctests"
	@echo "make format  let ruff format and fix"
	@echo "make clean   remove .venv and what the demo wrote"

demo: $(DEMO)
	@$(BIN)/python examples/imbalanced_digits.py $(ARGS)

test: $(DEV)
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup -m "not long" $(ARGS)

check: $(DEV)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright
	@$(BIN)/python -m pytest -q --doctest-modules insgd_optax examples

format: $(DEV)
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean:
	rm -rf .venv demo

$(EXAMPLES): EXTRA := examples
$(DEV): EXTRA := dev

$(EXAMPLES) $(DEV): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "insgd_optax needs Python 3.11 or newer; name one: make $(MAKECMDGOALS) PYTHON=python3.12"; \
	  exit 1; }
	@echo "Setting up .venv with the $(EXTRA) extra (about a minute) ..."
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -q -c constraints.txt -e ".[$(EXTRA)]"
	@touch $@
