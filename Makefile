# make demo    from physics to a forecast: sets up .venv, simulates, trains, evaluates, generates
# make test    every notebook and check; the last line is "N passed, M failed"
# make check   the quick ones, in seconds: style, sizes, export, metadata, wheel; before every commit
# make docs    the documentation as a static site in _docs
# make lab     JupyterLab on the first tutorial
# make browser every page and widget in headless Chromium, after make docs
# make export  notebooks -> wan_well/*.py and README.md
# make refresh run every notebook and store its outputs
# make lowest  the oldest versions that settings.ini allows, together, in .venv-lowest: a few notebooks and a short training
# make clean   remove what builds leave behind; data, runs and environments stay
#
# PYTHON     the interpreter to build .venv with (3.11 or newer)
# PIP_FLAGS  passed to pip install. On Linux the default torch wheel is a CUDA build of several gigabytes; on a machine with no GPU
#            name the CPU index of your torch provider here: make demo PIP_FLAGS="--extra-index-url <index>"
# LAB_FLAGS  passed to JupyterLab: make lab LAB_FLAGS="--no-browser --port 8899"
# FLAGS      passed to the demo: make demo FLAGS="--output_dir elsewhere"

PYTHON ?= python3
PIP_FLAGS ?=
FLAGS ?=
LAB_FLAGS ?=

BIN := .venv/bin
INPUTS := settings.ini setup.py pyproject.toml constraints.txt

.PHONY: demo test check docs lab browser export refresh lowest clean
.DEFAULT_GOAL := demo

demo: .venv/.installed
	$(BIN)/wan-well demo $(FLAGS)

test: .venv/.installed-dev
	@$(BIN)/python scripts/test.py

check: .venv/.installed-dev
	@$(BIN)/python scripts/test.py --quick

docs: .venv/.installed-dev
	$(BIN)/python scripts/build_docs.py

lab: .venv/.installed-dev
	$(BIN)/jupyter lab --notebook-dir=nbs --LabApp.news_url= --LabApp.default_url=/lab/tree/tutorials/first_forecast.ipynb $(LAB_FLAGS)

browser: .venv/.installed-dev
	$(BIN)/python scripts/browser.py

export: .venv/.installed-dev
	$(BIN)/nbdev-export
	$(BIN)/nbdev-clean
	$(BIN)/python scripts/readme.py

refresh: .venv/.installed-dev
	$(BIN)/nbdev-test --save --do-print --n-workers 2
	$(BIN)/nbdev-clean
	$(BIN)/python scripts/readme.py

# One notebook for each requirement that the package leans on, and the chain that users run first.
OLD := .venv-lowest
OLDEST_NOTEBOOKS := 01_files|02_locks|03_options|05_config|12_data.reader|30_latents.base_model|41_forecast.flow|43_forecast.lora|45_forecast.experts|60_evaluation.metrics|install

lowest:
	$(PYTHON) -m venv --clear $(OLD)
	$(OLD)/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(OLD)/bin/uv pip compile --quiet --python $(OLD)/bin/python --resolution lowest-direct --extra dev $(PIP_FLAGS) setup.py -o $(OLD)/lowest.txt
	$(OLD)/bin/uv pip install --quiet --python $(OLD)/bin/python $(PIP_FLAGS) -r $(OLD)/lowest.txt
	$(OLD)/bin/uv pip install --quiet --python $(OLD)/bin/python --no-deps -e .
	HF_HUB_OFFLINE=1 $(OLD)/bin/nbdev-test --do-print --n-workers 2 --file-re '^($(OLDEST_NOTEBOOKS))\.ipynb$$'

clean:
	rm -rf _proc _docs build dist *.egg-info
	find wan_well nbs scripts -name __pycache__ -prune -exec rm -rf {} +

# Two states of one environment: what a run needs, and what developing adds. Made again only when an input changes.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "wan_well needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) -V 2>&1). Name another one: make PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

.venv/.installed: $(BIN)/python $(INPUTS)
	$(BIN)/python -m pip install --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt -e .
	@touch $@

.venv/.installed-dev: $(BIN)/python $(INPUTS)
	$(BIN)/python -m pip install --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt -e '.[dev]'
	@touch .venv/.installed $@
