"""Whole comparisons from one description."""

import math
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import pytest

import pretraining.utils
from report import compare
from study import running
from study.__main__ import main
from study.cells import finished_cells
from study.description import Cell, load
from study.fractions import choose
from study.jobs import Job
from study.plan import epoch_job, jobs, needed
from study.status import state
from tests.helpers import ROOT, command, put_weights
from tests.interrupting import results
from utils.cli import id_list

TEN = range(10, 101, 10)
# Of each shipped study, in order: scenarios side by side, seeds, shares of the training recordings.
SHIPPED = {
    "ablation": [
        ("beat augment ema sampling standardise", (10, 20), [0.1]),
        ("schedule long_run loss mixup", (10, 20), [0.1]),
    ],
    "cpu": [
        ("random beat", (10, 20, 30), [0.1]),
        ("rhythm hr cpc", (10, 20, 30), [0.1]),
        ("beat25 beat50", (10, 20, 30), [0.1]),
        ("random_2d beat_2d", (10, 20, 30), [0.1]),
    ],
    "demo": [("random pretrained", [0], [1])],
    "mitdb": [
        ("random beat", TEN, [1]),
        ("random_2d beat_2d", TEN, [1]),
        ("rhythm hr cpc", TEN, [1]),
        ("beat25 beat50", TEN, [1]),
        ("random beat", TEN, [0.01, 0.05, 0.1, 0.25, 0.5]),
    ],
    "mitdb_svdb": [],  # pretraining only
    "paper": [
        ("random beat_2048", TEN, [1]),
        ("beat_512 beat_4096", TEN, [1]),
        ("rhythm hr cpc", TEN, [1]),
    ],
    "team1": [
        ("random beat1 beat10 beat20 beat100", TEN, [1]),
        ("random_2d beat1_2d beat10_2d beat20_2d beat88_2d beat100_2d", TEN, [1]),
    ],
}
SMALL = """
[data.set]
command = "pretraining.convert"
makes = "no/set"
source = "mitdb"
from = "no/mitdb"
out = "no/set"
[pretraining]
train = "no/set"
epochs = 2
steps-per-epoch = 10
[pretraining.beat]
task = "beat"
[pretraining.half]
task = "beat"
patients = 0.5
[finetuning]
train = "no/train.npz"
compile = false
[scenarios.first]
pretraining = "beat"
epoch = 1
freeze = true
[[cells]]
scenarios = ["random", "first"]
seeds = [10]
subsets = [1.0, 0.1]
[[cells]]
scenarios = ["random"]
seeds = [10, 20]
"""


def write(folder, text=SMALL):
    path = folder / "small.toml"
    path.write_text(text)
    return path


def test_commands_in_order(tmp_path):
    path = write(tmp_path, SMALL)
    result = command(
        main, "run", path, "--dry-run", "--folder", "j", "--set", "finetuning.epochs=3"
    )
    tune = "python -m finetuning.trainer --job-dir j/{} --seed {} --train no/train.npz --no-compile"
    pretrain = "python -m pretraining.trainer --job-dir j/{} --train no/set --epochs 2"
    pretrain += " --steps-per-epoch 10 --task beat"
    encoder = " --epochs 3 --freeze --weights-file j/beat_epoch01.safetensors"
    assert result.out.splitlines() == [
        tune.format("random_10", 10) + " --epochs 3 --resume",
        "python -m pretraining.convert --source mitdb --from no/mitdb --out no/set",
        pretrain.format("beat") + " --resume",
        "python -m pretraining.utils --checkpoint j/beat/epoch_01/model.safetensors"
        " --out j/beat_epoch01.safetensors --overwrite",
        tune.format("first_10", 10) + encoder + " --resume",
        tune.format("random_subset0.1_10", 10) + " --epochs 3 --subset 0.1 --resume",
        tune.format("first_subset0.1_10", 10) + encoder + " --subset 0.1 --resume",
        tune.format("random_20", 20) + " --epochs 3 --resume",
        pretrain.format("half") + " --patient-ids '(0.5 of those in no/set)' --resume",
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("epochs=2", "unknown key 'epochs'"),
        ("folder=1", "folder must be text"),
        ("cells=1", "cells must be a list"),
        ("cells=[1]", "cells must be tables"),
        ("data.x=1", "[data] holds tables only"),
        ("data.x.makes='x'", "[data.x] must state its command"),
        ("data.set.makes=[1]", "[data.set] must state its command, and what files it makes"),
        ("data.set.makes=[]", "[data.set] must state its command, and what files it makes"),
        ("data.set.from=3", "[data.set] from must be text, not 3"),
        (
            "data.set.from='no/set/b'\ndata.b={command='x',from='no/set',makes='no/set/b'}",
            "set needs b needs set; let one of them read something else",
        ),
        ("pretraining.train=['a','b']", "[pretraining.beat] train must be text, not ['a', 'b']"),
        ("pretraining.half.arch=['resnet18']", "arch must be text"),
        ("pretraining.half.seed=[1]", "[pretraining.half] seed must be a whole number, not [1]"),
        ("finetuning.subset=[0.1]", "subset must be a number, not [0.1]"),
        ("scenarios.x.weights-file=1", "weights-file must be text, not 1"),
        ("pretraining.beat.epocs=2", "[pretraining.beat] 'epocs' is no flag"),
        ("pretraining.beat.epochs=0", "[pretraining.beat] --epochs: 0 is not a whole number"),
        ("pretraining.beat.epochs=true", "epochs takes a value"),
        ("pretraining.beat.job-dir='x'", "holds job-dir, which the study sets itself"),
        ("pretraining.beat.patients=2", "patients must be a share above 0"),
        ("pretraining.new.patients=0.5", "[pretraining.new] lacks task"),
        ("finetuning.seed=1", "holds seed, which the study sets itself"),
        ("finetuning.freeze='yes'", "freeze takes true or false"),
        ("scenarios.x.pretraining='y'", "names the pretraining run 'y'; known are beat, half"),
        ("scenarios.first.epoch=0", "epoch must be one of a pretraining run"),
        ("scenarios.first.subset=0.5", "belongs to [[cells]]"),
        ("scenarios.'a b'.stages=1", "'a b' is not a name"),
        (
            "cells=[{scenarios=['y']}]",
            "names the scenario 'y'; known are random, beat, half, first",
        ),
        ("cells=[{scenarios=['random'],seed=[1]}]", "[[cells]] unknown key 'seed'"),
        ("cells=[{scenarios=['random'],seeds=[-1]}]", "--seed: -1 is not"),
        ("cells=[{scenarios=['random'],seeds=[[1]]}]", "seed must be a whole number, not [1]"),
        ("cells=[{scenarios=['random'],subsets=[0]}]", "--subset: 0 is not"),
        ("cells=[{scenarios=['random'],subsets=['1']}]", "subset must be a number, not '1'"),
        ("cells=[{seeds=[1]}]", "scenarios must be names"),
        ("pretraining.random_10.task='hr'", "random_10 would be two runs"),
        ("x=", "--set 'x=' must read KEY=VALUE"),
        ("scenarios.random.arch=resnet50", "text in quotes"),
        ("finetuning.epoch=3", "[finetuning] holds epoch, which belongs to [scenarios.NAME]"),
        ("finetuning.pretraining='beat'", "[finetuning] holds pretraining"),
    ],
)
def test_mistakes_are_one_line(tmp_path, change, words):
    command(main, "run", write(tmp_path), "--dry-run", "--set", change).refused(
        "jobs/small" if "two runs" in words or " needs " in words else "small.toml", words
    )


def test_shares_need_a_number_of_steps(tmp_path):
    path = write(tmp_path, SMALL.replace("steps-per-epoch = 10\n", ""))
    command(main, "status", path).refused("[pretraining.half]", "steps-per-epoch")


def test_all_shipped_studies_are_here():
    assert {path.stem for path in (ROOT / "studies").glob("*.toml")} == SHIPPED.keys()


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_studies(name):
    study = load(ROOT / f"studies/{name}.toml")
    assert study.cells == [
        Cell(scenario, share, seed)
        for scenarios, seeds, shares in SHIPPED[name]
        for share in shares
        for seed in seeds
        for scenario in scenarios.split()
    ]
    for job in jobs(study):  # a step that has begun goes on, or begins again
        again = job.kind != "data" or job.words[0] == "recordings.download"
        assert again or job.flags.get("overwrite") or job.flags.get("resume"), job.name


def test_the_ablation_shares_a_pretraining_run():
    ablation, cpu = (jobs(load(ROOT / f"studies/{name}.toml")) for name in ("ablation", "cpu"))
    shared = next(job for job in ablation if job.name == "pretrained")
    run = next(job for job in cpu if job.name == "beat")
    assert shared.argv() == run.argv() and shared.makes == run.makes
    for cell in ablation:
        assert cell.kind != "finetuning" or shared in needed(cell, ablation)


def test_named_patients_are_nested_and_never_validate():
    runs = {job.name: job for job in jobs(load(ROOT / "studies/mitdb_svdb.toml"))}
    named = {
        name: [set(id_list(flags.get(key, ""))) if flags.get(key) else set()
               for key in ("patient-ids", "val-patient-ids")]
        for name, flags in ((name, job.flags) for name, job in runs.items())
    }  # fmt: skip
    assert len(named) == 11
    for ending in ("", "_2d"):
        parts = [named[f"beat{count}{ending}"][0] for count in (1, 12, 24)]
        assert [len(part) for part in parts] == [1, 12, 24]
        assert parts[0] < parts[1] < parts[2]
    for train, val in named.values():
        assert not train & val and len(val) in (5, 12)
    assert len(named["rhythm"][0]) == 43


def test_shares_of_patients_are_nested_and_keep_subjects_together():
    patients, same = range(100, 148), {102: 101}
    shares = [set(choose(patients, same, share, 0)) for share in (0.01, 0.25, 0.5, 1)]
    assert [len(share) for share in shares] == [1, 12, 24, 48]
    assert shares[0] <= shares[1] <= shares[2] <= shares[3]
    assert shares[1] == set(choose(reversed(patients), same, 0.25, 0))
    assert shares[1] != set(choose(patients, same, 0.25, 1))
    for seed in range(20):
        chosen = set(choose(patients, same, 0.25, seed))
        assert (101 in chosen) == (102 in chosen) and len(chosen) in (12, 13)


@pytest.fixture
def alone(monkeypatch):
    """Processes of a study begin where its commands are found, on one thread."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def real(folder, cohort, prepared):
    """Three runs of a second or so each."""
    return write(
        folder,
        f"""
[pretraining]
train = "{cohort}"
index = "{folder / "index"}"
stages = 1
frame-size = 256
batch-size = 8
steps-per-epoch = 16
epochs = 4
samples-per-patient = 16
val-size = 32
device = "cpu"
precision = "fp32"
checkpoint-every = 3
[pretraining.half]
task = "beat"
patients = 0.5
val-patients = 1
[finetuning]
train = "{prepared / "p_train.npz"}"
test = "{prepared / "p_test.npz"}"
epochs = 2
batch-size = 8
val-size = 0.25
device = "cpu"
precision = "fp32"
[scenarios.random]
stages = 1
[scenarios.lost]
weights-file = "{folder / "none.safetensors"}"
[scenarios.unmade]
weights-file = "{folder / "unmade.safetensors"}"
[data.broken]
command = "recordings.synthetic"
makes = "{folder / "unmade.safetensors"}"
out = "{folder}"
[[cells]]
scenarios = ["lost", "unmade", "half", "random"]
seeds = [10]
""",
    )


def test_a_study_that_is_killed_ends_as_one_that_is_not(
    alone, tmp_path, cohort_folder, prepared, monkeypatch
):
    path, whole, killed = real(tmp_path, cohort_folder, prepared), tmp_path / "a", tmp_path / "b"
    result = command(main, "run", path, "--folder", whole, "--jobs", 2)
    assert result.code == 2 and result.err == "error: 2 of 6 jobs failed, see above\n"
    assert "lost_10 failed: error: argument --weights-file" in result.out
    assert f"({whole / 'lost_10.log'})" in result.out
    assert "unmade_10 was not run: it needs broken\n" in result.out
    with monkeypatch.context() as patched:  # finished runs start no process
        patched.setattr(subprocess, "Popen", None)
        only = ["--set", "cells=[{scenarios=['half','random'],seeds=[10]}]"]
        again = command(main, "run", path, "--folder", whole, *only)
        assert again.code == 0 and again.out == "3 of 3 jobs are finished\n"
        dry = command(main, "run", path, "--folder", whole, *only, "--dry-run")
        assert dry.out == "all jobs are finished\n"
    status = command(main, "status", path, "--folder", whole).out
    assert [line.split()[:2] for line in status.splitlines()[1:]] == [
        ["lost_10", "failed"], ["broken", "failed"], ["unmade_10", "not"], ["half", "finished"],
        ["half_10", "finished"], ["random_10", "finished"],
    ]  # fmt: skip
    changed = command(main, "status", path, "--folder", whole, "--set", "finetuning.epochs=3").out
    assert changed.count("of another command") == 2
    words = ["run", path, "--folder", killed, *only]
    process = subprocess.Popen([sys.executable, "-m", "study", *map(str, words)])
    while not (killed / "half" / "history.csv").exists() and process.poll() is None:
        time.sleep(0.01)
    compared = ["--study", path, *only]
    command(compare.main, *compared, "--folder", killed).refused(f"status {path} --folder {killed}")
    process.kill()  # its trainer sees that, and leaves
    process.wait()
    assert command(main, *words).code == 0
    for name in ("half", "half_10", "random_10"):
        assert results(killed / name) == results(whole / name), name
    tables = [command(compare.main, *compared, "--folder", each) for each in (whole, killed)]
    assert tables[0] == tables[1] and tables[0].out.startswith("2 of 2 fine-tuning runs")
    assert {"half", "random"} <= set(tables[0].out.split())
    cells = finished_cells(load(path, folder=killed))
    assert [(cell.scenario, cell.seed, cell.run, cell.epoch) for cell in cells] == [
        ("half", 10, killed / "half", None), ("random", 10, None, None)
    ]  # fmt: skip
    assert cells[0].job == killed / "half_10"


COMMAND = "import time; from utils import cli; cli.run(lambda: print('begun') or time.sleep(60))"
KILLED = """
import os, subprocess, sys
from utils.stopping import STUDY
environment = os.environ | {STUDY: str(os.getpid())}
subprocess.run([sys.executable, "-c", sys.argv[1]], env=environment)
"""


def test_commands_end_with_a_study_that_is_killed(alone):
    study = subprocess.Popen([sys.executable, "-c", KILLED, COMMAND], stdout=subprocess.PIPE)
    assert study.stdout.readline() == b"begun\n"
    study.kill()
    study.communicate(timeout=30)  # until the command, too, has closed it


WAITING = """
[pretraining.beat]
task = "beat"
train = "{0}/never"
[data.step]
command = "http.server 0"
makes = "{0}/never"
"""
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
time.sleep(60)
"""


@pytest.mark.parametrize("command_line", ["http.server 0", "stubborn"])
def test_time_limit(alone, tmp_path, monkeypatch, command_line):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    path = write(tmp_path, WAITING.format(tmp_path).replace("http.server 0", command_line))
    began = time.monotonic()
    result = command(main, "run", path, "--folder", tmp_path / "j", "--time-limit", 0.02)
    assert result.code == running.LEFT and 1 < time.monotonic() - began < 10
    assert "left: 2 jobs (beat, step); the same command continues" in result.out
    status = command(main, "status", path, "--folder", tmp_path / "j").out.splitlines()
    assert [line.split()[:2] for line in status[1:]] == [["step", "begun"], ["beat", "not"]]


@pytest.mark.parametrize(
    ("code", "over", "says"),
    [
        (143, False, "begun"),
        (-15, False, "begun"),
        (1, False, "failed"),
        (-9, False, "failed"),  # by somebody else, such as a system that is short of memory
        (-9, True, "begun"),
    ],
)
def test_how_a_process_ends_while_the_study_stops(tmp_path, code, over, says):
    job = Job("step", "data", (), {}, (tmp_path / "never",), tmp_path)
    runner = running.Runner([job], 1, 0, 0 if over else math.inf)
    runner.running = [running.Process(job, Mock(returncode=code), time.monotonic(), 0)]
    runner.reap(Mock())
    assert state(job) == says
    assert (says == "begun") == (job in runner.left) != (job.name in runner.failed)


def test_a_step_that_ended_unnoticed_runs_again(tmp_path):
    job = epoch_job(tmp_path, "beat", 1)
    put_weights(Path(job.flags["checkpoint"]))
    assert command(pretraining.utils.main, *job.argv()[1:]).code == 0 and job.finished()
    job.begun.touch()
    assert not job.finished() and command(pretraining.utils.main, *job.argv()[1:]).code == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_it_and_one_folder_is_for_one_study(alone, tmp_path, number, code):
    path, folder = write(tmp_path, WAITING.format(tmp_path)), tmp_path / "j"
    words = ["run", path, "--folder", folder]
    process = subprocess.Popen(
        [sys.executable, "-m", "study", *map(str, words)], stdout=subprocess.PIPE, text=True
    )
    while not (folder / "step.log").exists():
        time.sleep(0.01)
    command(main, *words).refused(str(folder), "in use by another study")
    process.send_signal(number)
    assert "left: 2 jobs" in process.communicate()[0] and process.returncode == code


def test_a_description_that_is_no_toml(tmp_path):
    path = write(tmp_path, "[half")
    command(main, "status", path).refused("small.toml", "see the TOML files")
    path.write_bytes(b"\xff\xfe")
    command(main, "status", path).refused("small.toml", "see the TOML files")
