"""Pretraining from end to end, on a handful of synthetic patients and a short network."""

import argparse
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from pretraining import run, trainer
from pretraining.data import validation_frames
from recordings.synthetic import write_icentia11k
from tests.helpers import command, contents, make_classifier, make_metadata
from utils.cli import UserError
from utils.weights import read_weights, save_weights, strip_head

FRAME, BATCH, STEPS = 256, 8, 4
PATIENTS = 5
SMALL = [
    "--task", "beat", "--frame-size", FRAME, "--batch-size", BATCH,
    "--steps-per-epoch", STEPS, "--samples-per-patient", 16, "--epochs", 2, "--val-patients", 2,
    "--device", "cpu", "--precision", "fp32",
]  # fmt: skip
REPEATABLE = (
    "history.csv",
    "manifest.json",
    "scores.json",
    "weights.safetensors",
    "MODEL_CARD.md",
    "epoch_01/model.safetensors",
    "epoch_02/model.safetensors",
)
TIMED = ("args.json", "timing.csv")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    root = tmp_path_factory.mktemp("cohort") / "icentia11k"
    write_icentia11k(root, PATIENTS, segments=2, samples=3000, seed=0)
    return root


@pytest.fixture(scope="module")
def job(cohort, tmp_path_factory):
    """A run with seed 0, for other tests to read."""
    folder = tmp_path_factory.mktemp("job") / "beat"
    result = pretrain(cohort, folder, "--seed", 0)
    assert result.code == 0, result
    return folder


def pretrain(cohort, job_dir, *flags):
    """A later flag overrules an earlier one. Weights come with their number of stages."""
    stages = [] if "--weights-file" in flags else ["--stages", 1]
    return command(trainer.main, "--train", cohort, "--job-dir", job_dir, *SMALL, *stages, *flags)


def bytes_of(folder):
    found = contents(folder)
    return {name: found[name] for name in REPEATABLE}


def head_less(path):
    return {k: v for k, v in read_weights(path)[0].items() if k.startswith("encoder.")}


def same(state, other):
    return state.keys() == other.keys() and all(torch.equal(state[k], other[k]) for k in state)


def test_files_of_a_run(job):
    assert sorted(contents(job)) == sorted(REPEATABLE + TIMED)
    history = pd.read_csv(job / "history.csv")
    assert list(history) == ["epoch", "loss", "acc", "val_loss", "val_acc", "macro_f1"]
    assert history["epoch"].tolist() == [1, 2]
    assert history.notna().all(axis=None)
    timing = pd.read_csv(job / "timing.csv")
    frames = timing["frames_per_second"] * timing["seconds"]
    assert frames.tolist() == pytest.approx([STEPS * BATCH] * 2, rel=0.05)
    arguments = json.loads((job / "args.json").read_text())["arguments"]
    assert arguments["frame_size"] == FRAME and arguments["seed"] == 0


def test_metadata_of_the_weights(job):
    _, metadata = read_weights(job / "weights.safetensors")
    assert (metadata.architecture, metadata.stages, metadata.in_channels) == ("resnet18", 1, 1)
    assert (metadata.fs, metadata.unit, metadata.frame_size) == (250, "mV", FRAME)
    assert (metadata.mean, metadata.sd, metadata.dataset) == (0.0018, 1.3711, "icentia11k")
    assert metadata.classes == ["undefined", "normal", "pac", "aberrated", "pvc"]


def test_equal_seeds_give_equal_bytes_wherever_the_data_lies(cohort, job, tmp_path):
    elsewhere = shutil.copytree(
        cohort, tmp_path / "moved", ignore=shutil.ignore_patterns("annotation_index")
    )
    again = tmp_path / "again"
    assert pretrain(elsewhere, again, "--index", tmp_path / "index").code == 0  # seed 0 by default
    assert bytes_of(again) == bytes_of(job)
    assert not (elsewhere / "annotation_index").exists()


def test_another_seed_is_another_run(cohort, job, tmp_path):
    assert pretrain(cohort, tmp_path / "one", "--seed", 1).code == 0
    other = bytes_of(tmp_path / "one")
    assert all(other[name] != content for name, content in bytes_of(job).items())


@pytest.mark.parametrize("readers", [1, 2])
def test_frames_do_not_depend_on_the_number_of_readers(cohort, job, tmp_path, readers):
    assert pretrain(cohort, tmp_path / "read", "--data-parallelism", readers).code == 0
    assert bytes_of(tmp_path / "read") == bytes_of(job)


def test_results_hold_no_paths(cohort, job):
    for content in bytes_of(job).values():
        assert str(cohort.parent).encode() not in content
        assert str(job.parent).encode() not in content


def test_patients_that_validate_never_train(job):
    manifest = json.loads((job / "manifest.json").read_text())
    train, validation = (manifest[part] for part in ("train", "validation"))
    assert (train["patients"], validation["patients"]) == (PATIENTS - 2, 2)
    used = [*train["records"], *validation["records"]]
    assert sorted(used) == [str(patient) for patient in range(PATIENTS)]


def test_only_frames_of_the_right_patients_are_read(cohort, tmp_path, monkeypatch):
    read = {"train": set(), "validation": set()}

    def train(args, data, *_):
        for part, patients in read.items():
            batches = getattr(data, part)
            segments, *_ = batches.examples(range(len(batches)))
            patients |= set(batches.index.segments["patient"][segments[:, 0]].tolist())
        raise UserError("seen enough")

    monkeypatch.setattr(run, "train", train)
    pretrain(cohort, tmp_path / "job", "--steps-per-epoch", 50).refused("seen enough")
    manifest = json.loads((tmp_path / "job" / "manifest.json").read_text())
    for part, patients in read.items():
        assert patients == set(map(int, manifest[part]["records"]))


def test_only_the_patients_asked_for(cohort, tmp_path):
    flags = ["--patient-ids", "4,0-1", "--val-patients", 0, "--epochs", 1]
    assert pretrain(cohort, tmp_path / "job", *flags).code == 0
    manifest = json.loads((tmp_path / "job" / "manifest.json").read_text())
    assert list(manifest["train"]["records"]) == ["0", "1", "4"]
    assert manifest["validation"]["patients"] == 0


def test_without_validation_the_last_epoch_is_chosen(cohort, tmp_path):
    job = tmp_path / "job"
    result = pretrain(cohort, job, "--val-patients", 0)
    assert result.code == 0, result
    history = pd.read_csv(job / "history.csv")
    assert history[["val_loss", "val_acc", "macro_f1"]].isna().all(axis=None)
    assert history[["loss", "acc"]].notna().all(axis=None)
    assert same(head_less(job / "weights.safetensors"), head_less(epoch(job, 2)))


def epoch(job, number):
    return job / f"epoch_{number:02}" / "model.safetensors"


@pytest.mark.parametrize(("metric", "best"), [("loss", 1), ("acc", 2), ("f1", 3)])
def test_the_metric_chooses_the_epoch(cohort, tmp_path, monkeypatch, metric, best):
    columns = {
        "val_loss": [0.1, 0.2, 0.3, 0.4],
        "val_acc": [0, 1, 1, 0.5],
        "macro_f1": [0.1, 0, 0.9, 0],
    }
    rows = iter(pd.DataFrame(columns).set_axis(["loss", "acc", "f1"], axis=1).to_dict("records"))
    monkeypatch.setattr(run, "validate", lambda *_: (next(rows), {}))
    job = tmp_path / "job"
    flags = ["--epochs", 4, "--steps-per-epoch", 1, "--val-metric", metric]
    assert pretrain(cohort, job, *flags).code == 0
    assert pd.read_csv(job / "history.csv")[list(columns)].to_dict("list") == columns
    strip_head(epoch(job, best), tmp_path / "expected")
    assert (job / "weights.safetensors").read_bytes() == (tmp_path / "expected").read_bytes()
    assert len({epoch(job, number).read_bytes() for number in (1, 2, 3, 4)}) == 4


def test_a_weights_file_is_where_training_starts(cohort, job, tmp_path, monkeypatch):
    started = {}

    def train(args, data, training, metadata):
        state = training.model.state_dict()
        started.update({k: v.clone() for k, v in state.items()})
        save_weights(epoch(args.job_dir, 1), state, make_metadata())
        training.history.best["chosen"].epoch = 1

    monkeypatch.setattr(run, "train", train)
    weights = job / "weights.safetensors"
    result = pretrain(cohort, tmp_path / "job", "--weights-file", weights, "--seed", 3)
    assert result.code == 0, result
    assert "25 encoder tensors transferred; dropped: nothing" in result.out
    expected = head_less(weights)
    assert all(torch.equal(started[name], value) for name, value in expected.items())


def test_loss_falls(cohort, tmp_path):
    flags = ["--epochs", 3, "--steps-per-epoch", 10, "--batch-size", 16, "--val-patients", 0]
    assert pretrain(cohort, tmp_path / "job", *flags).code == 0
    loss = pd.read_csv(tmp_path / "job" / "history.csv")["loss"].tolist()
    assert loss[2] < 0.9 * loss[0]


@pytest.mark.parametrize(
    ("flags", "patients", "expected"),
    [
        ({}, 2, (800, 1600)),  # a quarter of an epoch
        ({}, 20, (80, 1600)),
        ({"samples_per_patient": 100}, 2, (100, 200)),
        ({"val_size": 30}, 4, (8, 30)),  # of all four, not of the first only
        ({"val_samples_per_patient": 9}, 4, (9, 36)),
        ({"val_samples_per_patient": 9, "val_size": 30}, 4, (9, 30)),
        ({}, 0, (1, 0)),
    ],
)
def test_validation_frames(flags, patients, expected):
    defaults = {"val_size": None, "val_samples_per_patient": None, "samples_per_patient": 4096}
    args = argparse.Namespace(**defaults | flags)
    assert validation_frames(args, patients, epoch=6400) == expected


def test_a_run_is_not_replaced_by_accident(cohort, job, tmp_path):
    before = contents(job)
    pretrain(cohort, job).refused(str(job), "--overwrite")
    (tmp_path / "empty").mkdir()
    pretrain(tmp_path / "empty", job, "--overwrite").refused("empty", "no records")
    pretrain(cohort, job, "--overwrite", "--patient-ids", 77).refused("patient 77")
    pretrain(cohort, job, "--overwrite", "--weights-file", cohort).refused(str(cohort))
    pretrain(cohort, job / "args.json").refused("args.json is a file")
    assert contents(job) == before


def test_files_of_no_run_are_never_removed(cohort, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "manifest.json").write_text("from elsewhere")
    pretrain(cohort, folder).refused(str(folder), "manifest.json of no run")
    pretrain(cohort, folder, "--overwrite").refused(str(folder), "manifest.json of no run")
    assert contents(folder) == {"manifest.json": b"from elsewhere"}


def test_overwrite_replaces_a_run_and_nothing_else(cohort, job, tmp_path):
    copy = shutil.copytree(job, tmp_path / "copy")
    (copy / "notes.txt").write_text("mine")
    assert pretrain(cohort, copy, "--overwrite", "--epochs", 1, "--seed", 1).code == 0
    left = contents(copy)
    assert left["notes.txt"] == b"mine"
    assert "epoch_02/model.safetensors" not in left
    assert left["manifest.json"] != (job / "manifest.json").read_bytes()


def test_bad_input_is_one_line(cohort, tmp_path):
    job, text = tmp_path / "job", tmp_path / "text.safetensors"
    text.write_text("no weights")
    for flags, words in (
        (["--patient-ids", "0,77"], ["patient 77 is not in", str(cohort)]),
        (["--frame-size", 3001], ["no segment can be used", "shorter than an example of 3001"]),
        (["--val-patients", PATIENTS], ["--val-patients 5", "none to train on"]),
        (["--stages", 5], ["--stages 5"]),
        (["--weights-file", text], ["text.safetensors", "safetensors"]),
        (["--weights-file", tmp_path / "absent"], ["absent does not exist"]),
        (["--train", text], ["text.safetensors is not a folder"]),
    ):
        pretrain(cohort, job, *flags).refused(*words)
    assert not job.exists()


def test_weights_for_another_input_are_refused(cohort, tmp_path):
    for name, change, words in (
        ("fast", {"fs": 500}, "is for 500 Hz, the data has 250"),
        ("twelve", {"in_channels": 12}, "is for 12 leads, the data has 1"),
        ("other", {"architecture": "resnet34"}, "holds resnet34, not --arch resnet18"),
    ):
        metadata = make_metadata(**change)
        model = make_classifier(in_channels=metadata.in_channels)
        save_weights(tmp_path / name, model.state_dict(), metadata)
        flags = ["--weights-file", tmp_path / name, "--arch", "resnet18"]
        pretrain(cohort, tmp_path / "job", *flags).refused(words)
    assert not (tmp_path / "job").exists()


def test_constant_and_clipped_signals_are_reported(cohort, tmp_path):
    ignored = shutil.ignore_patterns("annotation_index")
    copy = shutil.copytree(cohort, tmp_path / "icentia11k", ignore=ignored)
    for name, limits in {"p00000_s00": (3, 3), "p00002_s01": (-10, 10)}.items():
        path = next(copy.rglob(f"{name}.dat"))
        np.fromfile(path, "<i2").clip(*limits).tofile(path)
    result = pretrain(copy, tmp_path / "job", "--epochs", 1, "--steps-per-epoch", 1)
    assert result.code == 0, result
    line = "used, too: 1 constant signal, such as p00000_s00; 1 clipped signal, such as p00002_s01"
    assert f"{line}\n" in result.err
    parts = json.loads((tmp_path / "job" / "manifest.json").read_text())
    parts = [parts[name] for name in ("train", "validation")]
    for kind in ("constant", "clipped"):
        assert sum(part[kind]["count"] for part in parts) == 1


def test_a_learning_rate_that_is_too_high_is_one_line(cohort, tmp_path):
    flags = ["--lr", "1e38", "--val-patients", 0, "--epochs", 1]
    pretrain(cohort, tmp_path / "job", *flags).refused("no longer finite", "--lr")
