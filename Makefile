# make demo: the whole experiment on synthetic recordings. make test: lint and tests.
# make report: every table and figure again, from the saved results.
PYTHON ?= python3
VENV ?= .venv
DEMO ?= demo
PY := $(VENV)/bin/python
# Further flags of its study, such as --set finetuning.epochs=1; .ci/run makes it smaller.
STUDY ?=
# Processes of the tests, each on one thread.
WORKERS ?= 2

.PHONY: install demo report test lint clean
install: $(VENV)/.installed

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is needed; make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.installed: requirements.txt | $(PY)
	$(PY) -m pip install --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/.installed-dev: requirements-dev.txt requirements-export.txt requirements.txt | $(PY)
	$(PY) -m pip install --disable-pip-version-check -r requirements-dev.txt
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-report: requirements-report.txt requirements.txt | $(PY)
	$(PY) -m pip install --disable-pip-version-check -r requirements-report.txt
	@touch $@ $(VENV)/.installed

demo: install
	$(PY) -m study run studies/demo.toml --folder $(DEMO) $(STUDY)
	$(PY) -m report.compare --jobs random=$(DEMO)/random_0 pretrained=$(DEMO)/pretrained_0 --figure $(DEMO)/demo.png --title "Demo on synthetic recordings"

report: $(VENV)/.installed-report
	$(PY) -m report.build

lint: $(VENV)/.installed-dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

test: lint
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) --dist loadfile

clean:
	rm -rf $(VENV) $(DEMO)
