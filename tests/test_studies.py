"""Studies run through Snakemake: what they would run, and an interrupted one that continues."""

import os
import signal
import subprocess
import sys
import time

import pytest
import yaml

from tests.helpers import ROOT
from utils.cli import id_list

STUDIES = [path for path in sorted((ROOT / "studies").glob("*.yaml")) if path.stem != "data"]
COMMAND = [sys.executable, "-m", "snakemake", "-s", "studies/Snakefile", "--cores", "2", "--nolock",
           "--configfile"]  # fmt: skip


def snakemake(config, *flags):
    words = [*COMMAND, str(config), *map(str, flags)]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_shipped_studies_name_their_runs_and_flags(path, tmp_path):
    done = snakemake(path, "--dry-run", "--directory", tmp_path)
    assert done.returncode == 0, done.stderr
    study = yaml.safe_load(path.read_text())
    said = done.stdout + done.stderr
    for run in study["pretraining"]["runs"]:
        assert f"--job-dir {study['folder']}/{run} " in said
    assert said.count("-m finetuning.trainer") == sum(
        len(cells["scenarios"])
        * len(cells.get("seeds", range(10)))
        * len(cells.get("subsets", "x"))
        for cells in study.get("finetuning", {}).get("cells", [])
    )


def test_the_patients_of_the_amounts_of_data_are_nested_and_never_validate():
    study = yaml.safe_load((ROOT / "studies/mitdb_svdb.yaml").read_text())["pretraining"]
    val = set(id_list(study["common"]["val-patient-ids"]))
    sets = {name: set(id_list(run["patient-ids"])) for name, run in study["runs"].items()
            if "patient-ids" in run}  # fmt: skip
    assert [len(sets[name]) for name in ("beat1", "beat12", "beat24")] == [1, 12, 24]
    assert sets["beat1"] < sets["beat12"] < sets["beat24"]
    assert not any(patients & val for patients in sets.values())
    assert set(id_list(study["runs"]["rhythm"]["val-patient-ids"])) < val


STUDY = """
folder: PLACE/jobs
data:
  cohort:
    command: recordings.synthetic
    makes: [PLACE/data/icentia11k, PLACE/data/training2017]
    flags: {out: PLACE/data, patients: 4, segments: 1, samples: 5000, recordings: 60}
  prepared:
    command: finetuning.prepare
    makes: [PLACE/set_train.npz, PLACE/set_test.npz]
    flags: {source: PLACE/data/training2017, labels: zip, pad: 512, out: PLACE/set, overwrite: true}
pretraining:
  common: {train: PLACE/data/icentia11k, frame-size: 512, batch-size: 16, steps-per-epoch: 4,
           epochs: 2, val-patients: 1, val-size: 16, precision: fp32, stages: 1}
  runs: {beat: {task: beat}}
finetuning:
  common: {train: PLACE/set_train.npz, test: PLACE/set_test.npz, epochs: 1, val-size: 0.2,
           precision: fp32}
  scenarios: {first: {pretraining: beat, epoch: 1}}
  cells: [{scenarios: [beat, first], seeds: [3]}]
"""  # a tiny one on synthetic recordings, all in one folder


def test_an_interrupted_study_continues(tmp_path):
    study, jobs = tmp_path / "study.yaml", tmp_path / "jobs"
    study.write_text(STUDY.replace("PLACE", str(tmp_path)))
    streams = dict.fromkeys(["stdout", "stderr"], subprocess.DEVNULL)
    begun = subprocess.Popen([*COMMAND, study], cwd=ROOT, start_new_session=True, **streams)
    for _ in range(600):
        if (jobs / "beat/history.csv").exists() or begun.poll() is not None:
            break
        time.sleep(0.1)
    os.killpg(begun.pid, signal.SIGINT)
    assert begun.wait(60) != 0
    done = snakemake(study)
    assert done.returncode == 0, done.stderr
    assert (jobs / "beat_3/scores.json").exists() and (jobs / "first_3/scores.json").exists()
    again = snakemake(study)
    assert "Nothing to be done" in again.stdout + again.stderr
    saving = snakemake(study, "--dry-run", "report").stdout
    assert f"--jobs beat={jobs}/beat_3 first={jobs}/first_3 --save" in saving
    study.write_text(study.read_text().replace("[beat, first]", "[beat, nothing]"))
    refused = snakemake(study, "--dry-run")
    assert refused.returncode and "'nothing'; known are random, beat, first" in refused.stdout
