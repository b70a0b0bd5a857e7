# `make demo` and `make test` each work as the first command: they make .venv when it is missing.
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
WORKERS ?= 2
ARGS ?=

BIN := $(VENV)/bin
# A stamp is written after its install has finished, so one that was interrupted is done again.
EXAMPLES := $(VENV)/examples.stamp
DEV := $(VENV)/dev.stamp
ZOO := $(VENV)/zoo.stamp
# The site's tools read the library's text and never import it.
SITE := .venv-docs
DOCS := $(SITE)/docs.stamp
# The dev extra holds the examples extra: where it is installed, the demo has nothing to install.
DEMO := $(if $(wildcard $(DEV)),$(DEV),$(EXAMPLES))
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test test-all zoo docs check format clean
.NOTPARALLEL:

help:
	@echo "make demo      train SGD, Adam, Muon and INSGD on imbalanced digits (ARGS=\"--help\" for options)"
	@echo "make test      run every test, with its first and last case (ARGS=\"-k word\" is passed to pytest)"
	@echo "make test-all  run every case of every test"
	@echo "make zoo       capture models that other packages have (installs them into .venv)"
	@echo "make docs      build the site into site/, strictly (ARGS=serve shows it while you write)"
	@echo "make check     ruff, pyright and the doctests"
	@echo "make format    let ruff format and fix"
	@echo "make clean     remove .venv and what the demo wrote"

demo: $(DEMO)
	@$(BIN)/python examples/imbalanced_digits.py $(ARGS)

test: $(DEV)
	@$(PYTEST) -m "not long" $(ARGS)

test-all: $(DEV)
	@$(PYTEST) $(ARGS)

zoo: $(ZOO)
	@JAX_ENABLE_X64=0 KERAS_BACKEND=jax $(PYTEST) -rs tests/third_party $(ARGS)

docs: $(DOCS)
	@NO_MKDOCS_2_WARNING=1 $(SITE)/bin/mkdocs $(or $(ARGS),build)

check: $(DEV)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright
	@$(BIN)/python -m pytest -q --doctest-modules insgd_optax examples

format: $(DEV)
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(SITE) demo site

$(EXAMPLES): EXTRA := examples
$(DEV): EXTRA := dev
$(ZOO): EXTRA := dev,zoo

$(EXAMPLES) $(DEV) $(ZOO): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "insgd_optax needs Python 3.11 or newer; name one: make $(MAKECMDGOALS) PYTHON=python3.12"; \
	  exit 1; }
	@echo "Setting up $(VENV) with the $(EXTRA) extra (about a minute) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -q -c $(CONSTRAINTS) -e ".[$(EXTRA)]"
	@touch $@

$(DOCS): pyproject.toml
	@$(PYTHON) -m venv $(SITE)
	@$(SITE)/bin/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))\
	  ["project"]["optional-dependencies"]["docs"], sep="\n")' > $(SITE)/docs.txt
	@$(SITE)/bin/python -m pip install -q -r $(SITE)/docs.txt
	@touch $@
