"""Pretraining from end to end, on a handful of synthetic patients and short networks."""

import json
import shutil
from dataclasses import asdict, fields

import numpy as np
import pandas as pd
import pytest
import torch

from models import ENCODERS
from pretraining import trainer
from pretraining.cohort import DataOptions
from pretraining.tasks import TASKS
from recordings.synthetic import write_icentia11k
from tests.helpers import command, contents
from utils.weights import load_encoder, read_weights, strip_head

FRAME, BATCH, STEPS, PATIENTS = 256, 8, 4, 5
SMALL = [
    "--frame-size", FRAME, "--batch-size", BATCH, "--steps-per-epoch", STEPS, "--epochs", 2,
    "--samples-per-patient", 16, "--device", "cpu", "--precision", "fp32",
]  # fmt: skip
VALIDATED = ["--val-patients", 2]
CPC = {"context_size": 2, "context_overlap": 0, "positive_offset": 0, "ns": 2}
CPC_FLAGS = ["--context-size", 2, "--ns", 2]
REPEATABLE = (
    "history.csv", "manifest.json", "scores.json", "weights.safetensors", "MODEL_CARD.md",
    "epoch_01/model.safetensors", "epoch_02/model.safetensors",
)  # fmt: skip


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    root = tmp_path_factory.mktemp("cohort") / "icentia11k"
    write_icentia11k(root, PATIENTS, segments=2, samples=3000, seed=0)
    return root


@pytest.fixture(scope="module")
def job(cohort, tmp_path_factory):
    """A run with seed 0, for other tests to read."""
    folder = tmp_path_factory.mktemp("job") / "beat"
    assert pretrain(cohort, folder, "--seed", 0).code == 0
    return folder


def pretrain(cohort, job_dir, *flags, task="beat", small=(*SMALL, *VALIDATED)):
    """A later flag overrules an earlier one. Weights come with their number of stages."""
    stages = [] if "--weights-file" in flags else ["--stages", 1]
    words = ["--train", cohort, "--job-dir", job_dir, "--task", task, *small, *stages, *flags]
    return command(trainer.main, *words)


def bytes_of(folder):
    found = contents(folder)
    return {name: found[name] for name in REPEATABLE}


def manifest_of(job):
    return json.loads((job / "manifest.json").read_text())


def epoch(job, number):
    return job / f"epoch_{number:02}" / "model.safetensors"


def test_files_of_a_run(job, cohort):
    assert sorted(contents(job)) == sorted((*REPEATABLE, "args.json", "timing.csv"))
    history = pd.read_csv(job / "history.csv")
    assert list(history) == ["epoch", "loss", "acc", "val_loss", "val_acc", "macro_f1"]
    assert history["epoch"].tolist() == [1, 2] and history.notna().all(axis=None)
    timing = pd.read_csv(job / "timing.csv")
    frames = timing["frames_per_second"] * timing["seconds"]
    assert frames.tolist() == pytest.approx([STEPS * BATCH] * 2, rel=0.05)
    arguments = json.loads((job / "args.json").read_text())["arguments"]
    assert arguments["frame_size"] == FRAME and arguments["seed"] == 0
    _, metadata = read_weights(job / "weights.safetensors")
    assert (metadata.architecture, metadata.stages, metadata.in_channels) == ("resnet18", 1, 1)
    assert (metadata.fs, metadata.unit, metadata.frame_size) == (250, "mV", FRAME)
    assert (metadata.mean, metadata.sd, metadata.dataset) == (0.0018, 1.3711, "icentia11k")
    assert metadata.classes == ["undefined", "normal", "pac", "aberrated", "pvc"]
    scores = json.loads((job / "scores.json").read_text())
    row = history.set_index("epoch").loc[scores["epoch"]]
    assert list(scores["validation"].values()) == [row.val_loss, row.val_acc, row.macro_f1]
    assert 0 < scores["without_input"]["acc"] <= 1
    for content in bytes_of(job).values():  # no paths
        assert str(cohort.parent).encode() not in content
        assert str(job.parent).encode() not in content


def test_equal_seeds_give_equal_bytes_wherever_the_data_lies(cohort, job, tmp_path):
    ignored = shutil.ignore_patterns("annotation_index")
    moved = shutil.copytree(cohort, tmp_path / "moved", ignore=ignored)
    flags = ["--index", tmp_path / "index", "--data-parallelism", 2]  # seed 0 by default
    assert pretrain(moved, tmp_path / "again", *flags).code == 0
    assert bytes_of(tmp_path / "again") == bytes_of(job)
    assert not (moved / "annotation_index").exists()
    assert pretrain(cohort, tmp_path / "other", "--seed", 1).code == 0
    other = bytes_of(tmp_path / "other")
    assert all(other[name] != content for name, content in bytes_of(job).items())


def test_patients_that_validate_never_train(cohort, job, tmp_path, monkeypatch):
    manifest = manifest_of(job)
    train, validation = (manifest[part]["records"] for part in ("train", "validation"))
    assert (len(train), len(validation)) == (PATIENTS - 2, 2)
    assert sorted([*train, *validation]) == [str(patient) for patient in range(PATIENTS)]

    def look(training, data, *_):
        for batches, expected in ((data.train, train), (data.validation, validation)):
            segments = batches.examples(range(len(batches))).segments[:, 0]
            patients = set(batches.index.segments["patient"][segments].tolist())
            assert patients == set(map(int, expected))
        raise trainer.UserError("seen enough")

    monkeypatch.setattr(trainer, "train", look)
    pretrain(cohort, tmp_path / "job", "--steps-per-epoch", 50).refused("seen enough")


def test_chosen_patients_without_validation(cohort, tmp_path):
    """The last epoch is chosen."""
    job = tmp_path / "job"
    flags = ["--val-patients", 0, "--steps-per-epoch", 10, "--batch-size", 16, "--epochs", 3]
    assert pretrain(cohort, job, *flags, "--patient-ids", "4,0-1").code == 0
    manifest = manifest_of(job)
    assert list(manifest["train"]["records"]) == ["0", "1", "4"]
    assert manifest["validation"]["patients"] == 0
    history = pd.read_csv(job / "history.csv")
    assert history[["val_loss", "val_acc", "macro_f1"]].isna().all(axis=None)
    assert history["loss"].iloc[-1] < 0.9 * history["loss"].iloc[0]  # it learns
    strip_head(epoch(job, 3), tmp_path / "expected")
    assert (job / "weights.safetensors").read_bytes() == (tmp_path / "expected").read_bytes()


@pytest.mark.parametrize(("metric", "best"), [("loss", 1), ("acc", 2), ("f1", 3)])
def test_the_metric_chooses_the_epoch(cohort, tmp_path, monkeypatch, metric, best):
    columns = {"val_loss": [0.1, 0.2, 0.3], "val_acc": [0, 1, 0.5], "macro_f1": [0.1, 0, 0.9]}
    rows = iter(pd.DataFrame(columns).to_dict("records"))
    scores = {"without_input": {}}
    monkeypatch.setattr(trainer, "validate", lambda *_: {"validation": next(rows)} | scores)
    job = tmp_path / "job"
    flags = ["--epochs", 3, "--steps-per-epoch", 1, "--val-metric", metric]
    assert pretrain(cohort, job, *flags).code == 0
    assert pd.read_csv(job / "history.csv")[list(columns)].to_dict("list") == columns
    strip_head(epoch(job, best), tmp_path / "expected")
    assert (job / "weights.safetensors").read_bytes() == (tmp_path / "expected").read_bytes()


def test_a_weights_file_is_where_training_starts(cohort, job, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "train", lambda training, *_: states.append(training.model))
    monkeypatch.setattr(trainer, "conclude", lambda *_: None)
    states, weights = [], job / "weights.safetensors"
    result = pretrain(cohort, tmp_path / "job", "--weights-file", weights, "--seed", 3)
    assert "25 encoder tensors transferred; dropped: nothing" in result.out, result
    started = states[0].state_dict()
    assert all(torch.equal(started[k], value) for k, value in read_weights(weights)[0].items())


@pytest.mark.parametrize(
    ("options", "patients", "expected"),
    [
        ({}, 2, (800, 1600)),  # a quarter of an epoch
        ({}, 20, (80, 1600)),
        ({"samples_per_patient": 100}, 2, (100, 200)),
        ({"val_size": 30}, 4, (8, 30)),  # of all four, not of the first only
        ({"val_samples_per_patient": 9, "val_size": 30}, 4, (9, 30)),
    ],
)
def test_validation_examples(options, patients, expected):
    values = dict.fromkeys(field.name for field in fields(DataOptions))
    values |= {"samples_per_patient": 4096} | options
    assert DataOptions(**values).validation_examples(patients, epoch=6400) == expected


def test_batch_statistics_of_few_steps_are_warned_of(cohort, job, tmp_path):
    words = "epoch 1: after 22 steps 10% of the running batch statistics are initial values"
    steps = ["--steps-per-epoch", 22]  # 0.9^22 = 0.098, after two epochs 0.9^44 = 0.0097
    new = pretrain(cohort, tmp_path / "new", *steps)
    assert words in new.err and new.err.count("statistics") == 1, new
    start = ["--weights-file", job / "weights.safetensors"]
    assert "statistics" not in pretrain(cohort, tmp_path / "on", *steps, *start).err


def test_a_run_is_not_replaced_by_accident(cohort, job, tmp_path):
    before = contents(job)
    pretrain(cohort, job).refused(str(job), "--overwrite")
    (tmp_path / "empty").mkdir()
    pretrain(tmp_path / "empty", job, "--overwrite").refused("empty", "no records")
    pretrain(cohort, job, "--overwrite", "--patient-ids", 77).refused("patient 77")
    pretrain(cohort, job, "--overwrite", "--weights-file", cohort).refused(str(cohort))
    pretrain(cohort, job / "args.json").refused("args.json: File exists")
    assert contents(job) == before


def test_overwrite_replaces_a_run_and_nothing_else(cohort, job, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "manifest.json").write_text("from elsewhere")
    for flags in ([], ["--overwrite"]):
        pretrain(cohort, folder, *flags).refused(str(folder), "manifest.json belongs to no run")
    assert contents(folder) == {"manifest.json": b"from elsewhere"}
    copy = shutil.copytree(job, tmp_path / "copy")
    (copy / "notes.txt").write_text("mine")
    assert pretrain(cohort, copy, "--overwrite", "--epochs", 1, "--seed", 1).code == 0
    left = contents(copy)
    assert left["notes.txt"] == b"mine" and "epoch_02/model.safetensors" not in left
    assert left["manifest.json"] != (job / "manifest.json").read_bytes()


def test_constant_and_clipped_signals_are_reported(cohort, tmp_path):
    ignored = shutil.ignore_patterns("annotation_index")
    copy = shutil.copytree(cohort, tmp_path / "icentia11k", ignore=ignored)
    for name, limits in {"p00000_s00": (3, 3), "p00002_s01": (-10, 10)}.items():
        path = next(copy.rglob(f"{name}.dat"))
        np.fromfile(path, "<i2").clip(*limits).tofile(path)
    result = pretrain(copy, tmp_path / "job", "--epochs", 1, "--steps-per-epoch", 1)
    line = "1 constant signal, such as p00000_s00\nused, too: 1 clipped signal, such as p00002_s01"
    assert result.code == 0 and f"{line}\n" in result.err, result
    parts = [manifest_of(tmp_path / "job")[name] for name in ("train", "validation")]
    for kind in ("constant", "clipped"):
        assert sum(part[kind]["count"] for part in parts) == 1


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        # Without effect
        (["--ns", 1], "--ns: only for --task cpc"),
        (["--spectrogram-hop", 32], "--spectrogram-hop: only for 2-D networks"),
        (
            ["--arch", "resnet18_2d", "--spectrogram-input", "raw", "--standardise", "frame"],
            "--spectrogram-input: not with --standardise frame",
        ),
        (["--val-size", 3, "--val-file", "FILE"], "--val-size: --val-file says who"),
        (["--val-patients", 0, "--val-size", 3], "--val-size: nobody validates"),
        (["--val-metric", "f1", "--preset", "authors-code"], "--val-metric: nobody validates"),
        (["--weights-file", "FILE", "--stages", 2], "--stages: comes with --weights-file"),
        # Impossible
        (["--cache-val", "FILE"], "exists"),
        (["--cache-val", "JOB/args.json"], "--cache-val: must lie outside --job-dir"),
        (["--val-patients", 0, "--cache-val", "val.npz"], "--cache-val: nobody validates"),
        (["--task", "cpc", "--context-overlap", 256], "--context-overlap: must be below"),
        (["--task", "cpc", "--context-size", 12], "an example of 3328 samples"),
        (["--arch", "resnet18_2d", "--spectrogram-window", 512], "256 samples are shorter"),
        (["--arch", "resnet18_2d", "--spectrogram-bins", 129], "--spectrogram-bins half"),
        (["--patient-ids", "0,77"], "patient 77 is not in"),
        (["--patient-ids", "0,1", "--val-patient-ids", "1"], "1 is among --patient-ids, too"),
        (["--frame-size", 3001], "no segment can be used"),
        (["--val-patients", PATIENTS], "--val-patients 5 takes all of 5 usable patients"),
        (["--stages", 5], "--stages 5"),
        (["--weights-file", "FILE"], "file.npz is not a readable safetensors file"),
        (["--train", "FILE"], "file.npz is not a folder"),
    ],
)
def test_bad_flags_are_one_line(cohort, tmp_path, flags, words):
    file = tmp_path / "file.npz"
    file.write_text("")
    places = {"FILE": file, "JOB/args.json": tmp_path / "job" / "args.json"}
    flags = [places.get(flag, flag) for flag in flags]
    pretrain(cohort, tmp_path / "job", *flags, small=SMALL).refused(words)
    assert not (tmp_path / "job").exists()


# Objectives and architectures


@pytest.mark.parametrize(
    ("task", "architecture"), list(zip(TASKS, list(ENCODERS)[::-1], strict=True))
)
def test_a_run_of_every_objective(cohort, tmp_path, task, architecture):
    spectral = ["--spectrogram-scale", "db", "--spectrogram-hop", 16] * architecture.endswith("2d")
    flags = ["--arch", architecture, *spectral, *CPC_FLAGS * (task == "cpc"), "--epochs", 1]
    result = pretrain(cohort, tmp_path / "job", *flags, task=task)
    assert result.code == 0, result
    assert pd.read_csv(tmp_path / "job/history.csv").notna().all(axis=None)
    metadata = read_weights(tmp_path / "job/weights.safetensors")[1]
    assert (metadata.task, metadata.architecture) == (task, architecture)
    assert metadata.context == (CPC if task == "cpc" else None)
    transfer = load_encoder(tmp_path / "job/weights.safetensors", architecture)
    assert transfer.dropped == []
    if spectral:
        expected = {"window": 256, "hop": 16, "bins": 128, "scale": "db"}
        assert metadata.spectrogram == asdict(transfer.encoder.spectrogram.settings) == expected
    dropped = load_encoder(epoch(tmp_path / "job", 1)).dropped
    assert dropped and not [name for name in dropped if name.startswith("encoder.")]


@pytest.mark.parametrize(
    ("flags", "normalisation"),
    [
        (["--arch", "resnet18_2d", "--spectrogram-input", "raw"], (0, 1)),
        (["--standardise", "frame"], (None, None)),
    ],
)
def test_frames_in_millivolt_and_standardised_by_themselves(cohort, tmp_path, flags, normalisation):
    assert pretrain(cohort, tmp_path / "job", *flags, "--epochs", 1).code == 0
    metadata = read_weights(tmp_path / "job/weights.safetensors")[1]
    assert (metadata.mean, metadata.sd) == normalisation


# Validation frames in a file


@pytest.mark.parametrize(("task", "flags"), [("beat", []), ("cpc", CPC_FLAGS)])
def test_stored_frames_validate_the_same(cohort, tmp_path, task, flags):
    file, one, two = tmp_path / "val.npz", tmp_path / "one", tmp_path / "two"
    flags = [*flags, "--epochs", 1]  # of 12 examples, the last batch is smaller
    made = [*VALIDATED, "--val-size", 12, "--cache-val", file]
    for job, others in ((one, made), (two, ["--val-file", file, "--data-parallelism", 1])):
        result = pretrain(cohort, job, *flags, *others, task=task, small=SMALL)
        assert result.code == 0, result
    for name in ("history.csv", "scores.json"):
        assert (one / name).read_bytes() == (two / name).read_bytes()
    one, two = manifest_of(one), manifest_of(two)
    assert one["train"] == two["train"]
    assert list(map(str, two["validation"]["patients"])) == list(one["validation"]["records"])


@pytest.fixture(scope="module")
def stored(cohort, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stored")
    flags = ["--val-size", 10, "--cache-val", folder / "val.npz", "--epochs", 1]
    assert pretrain(cohort, folder / "job", *flags).code == 0
    return folder / "val.npz"


def test_stored_frames_of_another_kind(cohort, stored, tmp_path):
    for task, flags, words in (
        ("rhythm", [], "task beat, not rhythm"),
        ("beat", ["--frame-size", 128], "frame_size 256, not 128"),
    ):
        flags = [*flags, "--val-file", stored]
        result = pretrain(cohort, tmp_path / "job", *flags, task=task, small=SMALL)
        result.refused(str(stored), words)
    with np.load(stored) as arrays:
        patients = ",".join(map(str, json.loads(str(arrays["about"]))["patients"]))
    flags = ["--patient-ids", patients, "--val-file", stored]
    pretrain(cohort, tmp_path / "job", *flags, small=SMALL).refused("none to train")


def test_files_that_hold_no_frames(cohort, stored, tmp_path):
    with np.load(stored) as file:
        arrays = dict(file)
    about = json.loads(str(arrays["about"]))
    (tmp_path / "text.npz").write_bytes(b"nothing")
    (tmp_path / "cut.npz").write_bytes(stored.read_bytes()[:-100])
    lacking = {name: array for name, array in arrays.items() if name != "labels"}
    np.savez(tmp_path / "lacking.npz", **lacking)
    changes = {
        "shape": {"labels": arrays["labels"][1:]},
        "type": {"signal": arrays["signal"].astype(float)},
        "object": {"signal": np.array([{}], object)},
        "class 5": {"labels": arrays["labels"] + 5},
        "short": {"signal": arrays["signal"][..., :10]},
        "nan": {"scale": arrays["scale"] * np.float32(np.nan)},
        "of no one": {"about": np.array(json.dumps(about | {"patients": []}))},
    }
    for name, change in changes.items():
        np.savez(tmp_path / f"{name}.npz", **arrays | change)
    for path in sorted(tmp_path.glob("*.npz")):
        result = pretrain(cohort, tmp_path / "job", "--val-file", path, small=SMALL)
        result.refused(f"{path} holds no validation frames")
    assert not (tmp_path / "job").exists()


def test_one_subject_twice_stays_out_of_training(cohort, tmp_path):
    copy, file = shutil.copytree(cohort, tmp_path / "copy"), tmp_path / "val.npz"
    about = {"name": "made up", "mean_mv": 0, "sd_mv": 1, "same_subject": {"4": 1}}
    (copy / "dataset.json").write_text(json.dumps(about))
    flags = ["--patient-ids", "0,2,3", "--val-patient-ids", "1,4", "--cache-val", file]
    assert pretrain(copy, tmp_path / "one", *flags, small=SMALL).code == 0
    with np.load(file) as arrays:
        stored = json.loads(str(arrays["about"])) | {"patients": [1]}
        np.savez(file, **dict(arrays) | {"about": json.dumps(stored)})
    assert pretrain(copy, tmp_path / "two", "--val-file", file, small=SMALL).code == 0
    assert list(manifest_of(tmp_path / "two")["train"]["records"]) == ["0", "2", "3"]
