# make demo and make test need nothing but a Python: they make .venv and install into it.

PYTHON ?= python3
VENV ?= .venv
REQUIREMENTS ?= requirements.lock
INSTALLED = $(VENV)/installed

.PHONY: demo test test-lowest lint docs

demo: $(INSTALLED)  # trains on embedded images, minutes on two cores
	$(VENV)/bin/python -m ibot_jax.main --config=configs/digits.py

test: $(INSTALLED)
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

test-lowest:  # with the lowest versions that setup.py allows
	$(MAKE) test VENV=.venv-lowest REQUIREMENTS=requirements.lowest

lint: $(INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/shellcheck --external-sources launch/*.sh launch/*.sbatch .ci/run

docs: $(INSTALLED)  # build/docs/index.html; a link that leads nowhere ends it
	JAX_PLATFORMS=cpu $(VENV)/bin/python -m sphinx --fail-on-warning --keep-going --quiet docs build/docs

$(INSTALLED): setup.py $(REQUIREMENTS)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/bin/python -m pip install --quiet -r $(REQUIREMENTS)
	$(VENV)/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@
