# make demo: the whole experiment on synthetic recordings. make test: lint and tests.
# make report: every table and figure again, from the saved results.
PYTHON ?= python3
VENV ?= .venv
DEMO ?= demo
PY := $(VENV)/bin/python
# Sizes of the demo; .ci/run makes them smaller.
COHORT ?= --patients 32 --segments 1 --samples 60000 --recordings 400
PREPARED ?= --pad 2560 --test-size 0.7
PRETRAINING ?= --frame-size 512 --batch-size 32 --steps-per-epoch 150 --epochs 2 --val-patients 4 --val-size 256
FINETUNING ?= --val-size 0.25 --batch-size 8 --epochs 6
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

$(VENV)/.installed-dev: requirements-dev.txt requirements-export.txt requirements-studies.txt requirements.txt | $(PY)
	$(PY) -m pip install --disable-pip-version-check -r requirements-dev.txt
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-report: requirements-report.txt requirements.txt | $(PY)
	$(PY) -m pip install --disable-pip-version-check -r requirements-report.txt
	@touch $@ $(VENV)/.installed

# Interrupted, the same command continues; finished, it only shows the result again.
demo: install $(DEMO)/physionet_manifest.json
	$(PY) -m pretraining.trainer --job-dir $(DEMO)/beat --task beat --train $(DEMO)/data/icentia11k $(PRETRAINING) --resume
	$(PY) -m finetuning.trainer --job-dir $(DEMO)/random --train $(DEMO)/physionet_train.npz --test $(DEMO)/physionet_test.npz $(FINETUNING) --resume
	$(PY) -m finetuning.trainer --job-dir $(DEMO)/pretrained --train $(DEMO)/physionet_train.npz --test $(DEMO)/physionet_test.npz --weights-file $(DEMO)/beat/weights.safetensors $(FINETUNING) --resume
	$(PY) -m report.compare --jobs random=$(DEMO)/random pretrained=$(DEMO)/pretrained --figure $(DEMO)/demo.png --title "Demo on synthetic recordings"

$(DEMO)/data: | $(VENV)/.installed
	$(PY) -m recordings.synthetic --out $@ $(COHORT)

$(DEMO)/physionet_manifest.json: | $(DEMO)/data
	$(PY) -m finetuning.prepare --source $(DEMO)/data/training2017 --labels zip --out $(DEMO)/physionet $(PREPARED) --overwrite

report: $(VENV)/.installed-report
	$(PY) -m nbconvert --log-level=WARN --to notebook --execute --inplace --ClearMetadataPreprocessor.enabled=True --ExecutePreprocessor.extra_arguments=--log-level=ERROR report/report.ipynb
	$(PY) -m nbconvert --log-level=ERROR --to html --no-input report/report.ipynb

lint: $(VENV)/.installed-dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

test: lint
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) --dist loadfile

clean:
	rm -rf $(VENV) $(DEMO)
