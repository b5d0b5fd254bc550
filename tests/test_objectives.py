"""Every objective with every architecture, and validation frames kept in a file."""

import json
import shutil
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
import torch

from models import build_encoder
from pretraining import trainer
from pretraining.batches import load
from pretraining.tasks import TASKS, build_task
from pretraining.validation import StoredFrames
from recordings.synthetic import write_icentia11k
from tests.helpers import command, contents
from utils.names import ARCHITECTURES
from utils.weights import load_encoder, read_weights

KEPT = [
    "--stages", 1, "--frame-size", 256, "--batch-size", 4, "--steps-per-epoch", 2,
    "--samples-per-patient", 8, "--epochs", 1, "--device", "cpu", "--precision", "fp32",
]  # fmt: skip
SMALL = [*KEPT, "--val-patients", 2, "--val-size", 10]
CPC = ["--context-size", 2, "--ns", 2]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    root = tmp_path_factory.mktemp("cohort") / "icentia11k"
    write_icentia11k(root, patients=5, segments=2, samples=3000, seed=0)
    return root


def pretrain(cohort, job, task, *flags, small=SMALL):
    return command(
        trainer.main, "--train", cohort, "--job-dir", job, "--task", task, *small, *flags
    )


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_objective_with_every_architecture(task, architecture):
    settings = {"context_size": 2, "context_overlap": 0, "positive_offset": 0, "ns": 2}
    generator = torch.Generator().manual_seed(0)
    encoder = build_encoder(architecture, 1, 1, generator)
    objective = build_task(task, {"frame_size": 256, **settings})
    model = objective.model(encoder, generator)
    logits = model(torch.randn(3, objective.num_frames, 256, generator=generator))
    assert logits.shape == (3, objective.num_outputs)
    objective.loss(logits, torch.tensor([0, 1, 2])).backward()
    assert encoder.conv1.weight.grad.any()


@pytest.mark.parametrize(
    ("task", "architecture"), list(zip(TASKS, ARCHITECTURES[::-1], strict=True))
)
def test_a_run_of_every_objective(cohort, tmp_path, task, architecture):
    spectral = ["--spectrogram-scale", "db", "--spectrogram-hop", 16] * architecture.endswith("2d")
    flags = ["--arch", architecture, *spectral, *CPC * (task == "cpc")]
    result = pretrain(cohort, tmp_path / "job", task, *flags)
    assert result.code == 0, result
    assert pd.read_csv(tmp_path / "job/history.csv").notna().all(axis=None)
    metadata = read_weights(tmp_path / "job/weights.safetensors")[1]
    assert (metadata.task, metadata.architecture) == (task, architecture)
    layout = {"context_size": 2, "context_overlap": 0, "positive_offset": 0, "ns": 2}
    assert metadata.context == (layout if task == "cpc" else None)
    transfer = load_encoder(tmp_path / "job/weights.safetensors", architecture)
    assert transfer.dropped == []
    if spectral:
        expected = {"window": 256, "hop": 16, "bins": 128, "scale": "db"}
        assert metadata.spectrogram == asdict(transfer.encoder.spectrogram.settings) == expected
    dropped = load_encoder(tmp_path / "job/epoch_01/model.safetensors").dropped
    assert dropped and not [name for name in dropped if name.startswith("encoder.")]


def test_scores_stand_beside_what_needs_no_signal(cohort, tmp_path):
    result = pretrain(cohort, tmp_path / "job", "hr")
    scores = json.loads((tmp_path / "job/scores.json").read_text())
    row = pd.read_csv(tmp_path / "job/history.csv").iloc[0]
    assert scores["validation"] == {
        "loss": row.val_loss,
        "acc": row.val_acc,
        "macro_f1": row.macro_f1,
    }
    assert 0 < scores["without_input"]["acc"] <= 1
    assert "answers that ignore the signal: loss " in result.out


def test_a_segment_shorter_than_an_example_is_left_out(cohort, tmp_path):
    pretrain(cohort, tmp_path / "job", "cpc", "--context-size", 12).refused(
        "shorter than an example of 3328 samples"
    )


def test_raw_spectrograms_are_of_millivolt(cohort, tmp_path):
    flags = ["--arch", "resnet18_2d", "--spectrogram-input", "raw"]
    assert pretrain(cohort, tmp_path / "job", "beat", *flags).code == 0
    metadata = read_weights(tmp_path / "job/weights.safetensors")[1]
    assert (metadata.mean, metadata.sd) == (0, 1)


def test_frames_standardised_each_by_its_own(cohort, tmp_path):
    assert pretrain(cohort, tmp_path / "job", "cpc", "--standardise", "frame").code == 0
    metadata = read_weights(tmp_path / "job/weights.safetensors")[1]
    assert (metadata.mean, metadata.sd) == (None, None)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--ns", 1], "--ns: only for --task cpc"),
        (["--spectrogram-hop", 32], "--spectrogram-hop: only for 2-D networks"),
        (["--spectrogram-input", "raw"], "--spectrogram-input: only for 2-D"),
        (
            ["--arch", "resnet18_2d", "--spectrogram-input", "raw", "--standardise", "frame"],
            "--spectrogram-input: not with --standardise frame",
        ),
        (["--arch", "resnet18_2d", "--spectrogram-bins", 129], "--spectrogram-bins 129"),
        (["--val-size", 3, "--val-file", "FILE"], "--val-size: --val-file says who"),
        (["--cache-val", "FILE"], "exists"),
        (["--cache-val", "JOB/args.json"], "--cache-val: must lie outside --job-dir"),
        (["--val-patients", 0, "--val-size", 3], "--val-size: nobody validates"),
        (["--val-metric", "f1", "--preset", "authors-code"], "--val-metric: nobody validates"),
        (["--task", "cpc", "--context-overlap", 256], "--context-overlap: must be below"),
        (["--arch", "resnet18_2d", "--spectrogram-window", 512], "256 samples are shorter"),
        (["--weights-file", "FILE", "--stages", 2], "--stages: comes with --weights-file"),
    ],
)
def test_flags_that_would_do_nothing(cohort, tmp_path, flags, words):
    file = tmp_path / "file.npz"
    file.write_text("")
    places = {"FILE": file, "JOB/args.json": tmp_path / "job" / "args.json"}
    small = KEPT[2:] if "--weights-file" in flags else KEPT
    flags = [places.get(flag, flag) for flag in flags]
    pretrain(cohort, tmp_path / "job", "beat", *flags, small=small).refused(words)
    assert not (tmp_path / "job").exists()


@pytest.mark.parametrize(("task", "flags"), [("beat", []), ("cpc", CPC)])
def test_kept_frames_validate_the_same(cohort, tmp_path, task, flags):
    kept = tmp_path / "val.npz"
    assert pretrain(cohort, tmp_path / "one", task, *flags, "--cache-val", kept).code == 0
    result = pretrain(cohort, tmp_path / "two", task, *flags, "--val-file", kept, small=KEPT)
    assert result.code == 0, result
    for name in ("history.csv", "scores.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    one, two = (json.loads((tmp_path / n / "manifest.json").read_text()) for n in ("one", "two"))
    assert one["train"] == two["train"]
    assert list(map(str, two["validation"]["patients"])) == list(one["validation"]["records"])
    again = tmp_path / "again.npz"
    assert pretrain(cohort, tmp_path / "three", task, *flags, "--cache-val", again).code == 0
    assert again.read_bytes() == kept.read_bytes()


@pytest.fixture(scope="module")
def kept(cohort, tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept")
    assert pretrain(cohort, folder / "job", "beat", "--cache-val", folder / "val.npz").code == 0
    return folder / "val.npz"


def test_kept_frames_are_named(kept):
    stored = StoredFrames(kept, batch_size=4)
    names = ", ".join(f"val.npz example {number}" for number in (4, 5, 6))
    assert stored.describe(1) == f"{names}, … (4 examples)"
    stored.arrays["scale"] = stored.arrays["scale"].copy()
    stored.arrays["scale"][6] = 1e38
    assert stored.describe(1) == "val.npz example 6 (1 of 4 examples, not finite)"


def test_kept_frames_are_mapped_not_loaded(kept):
    stored = StoredFrames(kept, batch_size=4)
    assert isinstance(stored.arrays["signal"], np.memmap)
    one = list(load(stored, range(len(stored)), torch.device("cpu")))
    two = list(load(stored, range(len(stored)), torch.device("cpu"), workers=1))
    assert [(len(batch.labels), batch.total) for batch in one] == [(4, 4), (4, 4), (2, 2)]
    for (x, y, _), (x2, y2, _) in zip(one, two, strict=True):
        assert torch.equal(x, x2) and torch.equal(y, y2)


def test_kept_frames_of_everybody_leave_nobody(cohort, kept, tmp_path):
    patients = StoredFrames(kept, 4).about["patients"]
    only = ["--patient-ids", ",".join(map(str, patients)), "--val-file", kept]
    pretrain(cohort, tmp_path / "job", "beat", *only, small=KEPT).refused("leaves none to train")


@pytest.mark.parametrize(
    ("task", "flags", "words"),
    [
        ("rhythm", [], "task beat, not rhythm"),
        ("beat", ["--frame-size", 128], "frame_size 256, not 128"),
        ("cpc", [], "task beat, not cpc"),
    ],
)
def test_kept_frames_of_another_kind(cohort, kept, tmp_path, task, flags, words):
    flags = [*flags, "--val-file", kept]
    pretrain(cohort, tmp_path / "job", task, *flags, small=KEPT).refused(str(kept), words)


def test_files_that_hold_no_frames(cohort, kept, tmp_path):
    files = {
        "text.npz": b"nothing",
        "cut.npz": kept.read_bytes()[:-100],
        "empty.npz": b"",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with np.load(kept) as file:
        arrays = dict(file)
    np.savez_compressed(tmp_path / "compressed.npz", **arrays)
    lacking = {name: array for name, array in arrays.items() if name != "labels"}
    np.savez(tmp_path / "lacking.npz", **lacking)
    np.savez(tmp_path / "shape.npz", **arrays | {"labels": arrays["labels"][1:]})
    np.savez(tmp_path / "type.npz", **arrays | {"signal": arrays["signal"].astype(float)})
    np.savez(tmp_path / "object.npz", **arrays | {"signal": np.array([{}], object)})
    about = json.loads(str(arrays["about"]))
    for name, change in {
        "of no one": {"patients": []},
        "below zero": {"patients": [-1]},
        "in lists": {"patients": [[1]]},
        "no text": {"dataset": ["icentia11k"]},
    }.items():
        text = np.array(json.dumps(about | change))
        np.savez(tmp_path / f"{name}.npz", **arrays | {"about": text})
    for name, change in {
        "class 5": {"labels": arrays["labels"] + 5},
        "class -1": {"labels": arrays["labels"] - 5},
        "short": {"signal": arrays["signal"][..., :10]},
        "two": {n: arrays[n].repeat(2, axis=1) for n in ("signal", "scale", "shift")},
        "nan": {"scale": arrays["scale"] * np.float32(np.nan)},
    }.items():
        np.savez(tmp_path / f"{name}.npz", **arrays | change)
    for path in sorted(tmp_path.glob("*.npz")):
        flags = ["--val-file", path]
        pretrain(cohort, tmp_path / "job", "beat", *flags, small=KEPT).refused(
            f"{path} holds no validation frames"
        )
    assert not (tmp_path / "job").exists()


def test_nobody_to_keep(cohort, tmp_path):
    flags = ["--val-patients", 0, "--cache-val", tmp_path / "val.npz"]
    pretrain(cohort, tmp_path / "job", "beat", *flags, small=KEPT).refused("--cache-val", "nobody")
    assert not contents(tmp_path)


def test_one_subject_twice_stays_out_of_training(cohort, tmp_path):
    copy = shutil.copytree(cohort, tmp_path / "copy")
    about = {"name": "made up", "mean_mv": 0, "sd_mv": 1, "same_subject": {"4": 1}}
    (copy / "dataset.json").write_text(json.dumps(about))
    kept = tmp_path / "val.npz"
    for seed in range(20):  # until the subject validates
        flags = ["--seed", seed, "--val-patients", 1, "--cache-val", kept, "--overwrite"]
        assert pretrain(copy, tmp_path / "one", "beat", *flags, small=KEPT).code == 0
        if len(StoredFrames(kept, 4).about["patients"]) == 2:
            break
    assert pretrain(copy, tmp_path / "two", "beat", "--val-file", kept, small=KEPT).code == 0
    manifest = json.loads((tmp_path / "two/manifest.json").read_text())
    assert list(manifest["train"]["records"]) == ["0", "2", "3"]
