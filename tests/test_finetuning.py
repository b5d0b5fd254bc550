"""Fine-tuning from end to end, on a small synthetic Challenge set and a short network."""

import json
import shutil
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch

from finetuning import evaluation, trainer
from finetuning.batches import batches, draw, load_parts, to_device
from finetuning.prepared_set import PreparedSet, load_prepared, write_prepared
from models import Classifier
from tests.helpers import command, contents, put_weights
from utils import metrics
from utils.engine import Hardware, evaluate
from utils.files import sha256
from utils.metrics import calibration_scores, read_predictions
from utils.weights import load_encoder, load_strictly, read_weights

CPU = torch.device("cpu")
SMALL = [
    "--epochs", 2, "--batch-size", 16, "--val-size", 0.25, "--device", "cpu", "--precision", "fp32",
]  # fmt: skip
BEST = "best_model.safetensors"
TABLES = ("train_predictions.csv", "val_predictions.csv", "test_predictions.csv")
REPEATABLE = ("history.csv", BEST, "scores.json", "MODEL_CARD.md", *TABLES)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A short network with another classifier: what makes these tests fast."""
    return put_weights(tmp_path_factory.mktemp("weights") / "weights.safetensors")


@pytest.fixture(scope="module")
def job(prepared, weights, tmp_path_factory):
    """A run with seed 0, for other tests to read."""
    folder = tmp_path_factory.mktemp("job") / "af"
    assert finetune(prepared, weights, folder, "--seed", 0).code == 0
    return folder


def finetune(prepared, weights, job_dir, *flags):
    """A later flag overrules an earlier one."""
    data = ["--train", prepared / "p_train.npz", "--test", prepared / "p_test.npz"]
    start = ["--weights-file", weights]
    return command(trainer.main, *data, *start, "--job-dir", job_dir, *SMALL, *flags)


def scores_of(job):
    return json.loads((job / "scores.json").read_text(), parse_constant=pytest.fail)  # no NaN


def encoder_of(path):
    return {k: v for k, v in read_weights(path)[0].items() if k.startswith("encoder.")}


def test_files_of_a_run(job):
    assert sorted(contents(job)) == sorted([*REPEATABLE, "args.json", "timing.csv"])
    history = pd.read_csv(job / "history.csv")
    assert list(history) == ["epoch", "loss", "acc", "val_loss", "val_acc", "macro_f1", "cinc3"]
    assert history["epoch"].tolist() == [1, 2]
    assert history.notna().all(axis=None)
    header = "record_name,true_A,true_N,true_O,true_~,prob_A,prob_N,prob_O,prob_~"
    for name, records in zip(TABLES, (36, 12, 12), strict=True):
        lines = (job / name).read_text().splitlines()
        assert lines[0] == header and len(lines) == records + 1


def test_scores_can_be_computed_again_from_the_predictions(job):
    scores = scores_of(job)
    for part in ("train", "val", "test"):
        table = read_predictions(job / f"{part}_predictions.csv")
        true, prob = table.true.argmax(1), np.ascontiguousarray(table.prob, np.float32)
        again = metrics.scores(true, prob, table.classes) | calibration_scores(true, prob)
        assert {name: scores[part][name] for name in again} == again
        assert ("uncalibrated" in scores[part]) == (part != "train")
    assert scores["temperature"] == read_weights(job / BEST)[1].temperature != 1
    assert scores["val"]["nll"] < scores["val"]["uncalibrated"]["nll"]
    history = pd.read_csv(job / "history.csv").set_index("epoch")
    assert scores["epoch"] == history["macro_f1"].idxmax()
    assert scores["val"]["macro_f1"] == history["macro_f1"].max()
    assert scores["val"]["cinc3"] == history["cinc3"][scores["epoch"]]


def test_equal_seeds_give_equal_bytes_wherever_the_data_lies(prepared, weights, job, tmp_path):
    elsewhere = shutil.copytree(prepared, tmp_path / "moved")
    assert finetune(elsewhere, weights, tmp_path / "same").code == 0  # seed 0 is the default
    assert finetune(prepared, weights, tmp_path / "other", "--seed", 1).code == 0
    first, same, other = (contents(path) for path in (job, tmp_path / "same", tmp_path / "other"))
    assert all(same[name] == first[name] != other[name] for name in REPEATABLE)


@pytest.fixture
def scripted(prepared, weights, tmp_path, monkeypatch):
    """Runs the epochs with validation scores given in advance: (epochs run, epoch chosen)."""

    def run(rows, *flags):
        scores = {"val_loss": 1.0, "val_acc": 0.0, "macro_f1": 0.0, "cinc3": 0.0, "auc": 0.0}
        rows = iter([scores | row for row in rows])
        monkeypatch.setattr(evaluation, "validation_scores", lambda *_: next(rows))
        result = finetune(prepared, weights, tmp_path / "job", "--overwrite", *flags)
        assert result.code == 0, result
        return len(pd.read_csv(tmp_path / "job/history.csv")), scores_of(tmp_path / "job")["epoch"]

    return run


def test_the_saved_model_of_the_chosen_epoch_predicts(scripted, prepared, tmp_path):
    assert scripted([{"macro_f1": 0.9}, {"macro_f1": 0.1}]) == (2, 1)
    best = tmp_path / "job" / BEST
    tensors, metadata = read_weights(best)
    model = Classifier(load_encoder(best).encoder, len(metadata.classes), torch.Generator())
    load_strictly(model, tensors, best)
    assert (metadata.frame_size, metadata.fs, metadata.classes) == (512, 250, list("ANO~"))
    test = load_prepared(prepared / "p_test.npz")
    recordings = to_device(test, np.arange(len(test)), CPU)
    logits, _ = evaluate(model, batches(recordings, 5), Hardware(CPU, bf16=False))
    table = read_predictions(tmp_path / "job/test_predictions.csv")
    assert table.record_names.tolist() == test.record_ids.tolist()
    assert np.array_equal(table.true, test.y)
    expected = (logits / metadata.temperature).softmax(1).numpy()
    np.testing.assert_allclose(table.prob, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("stop_metric", "column", "values"),
    [
        ("val_loss", "val_loss", [0.9, 0.8, 0.8, 0.85, 0.9, 0.1]),
        ("val_f1", "macro_f1", [0.1, 0.2, 0.2, 0.1, 0.15, 0.9]),
    ],
)
def test_stops_after_patience_epochs_without_a_better_one(scripted, stop_metric, column, values):
    rows = [{column: value} for value in values]
    flags = ["--epochs", 6, "--stop-metric", stop_metric, "--patience"]
    assert scripted(rows, *flags, 3)[0] == 5
    assert scripted(rows, *flags, 4)[0] == 6


@pytest.mark.parametrize(("metric", "best"), [("loss", 2), ("acc", 3), ("f1", 4), ("auc", 3)])
def test_the_metric_chooses_the_epoch(scripted, tmp_path, metric, best):
    columns = {
        "val_loss": [0.9, 0.2, 0.3, 0.4],
        "val_acc": [0.1, 0.2, 0.4, 0.4],
        "macro_f1": [0.1, 0.2, 0.3, 0.4],
        "auc": [0.9, 0.8, 0.9, 0.7],  # of equal ones the lower loss counts
    }
    rows = pd.DataFrame(columns).to_dict("records")
    assert scripted(rows, "--epochs", 4, "--val-metric", metric) == (4, best)
    history = pd.read_csv(tmp_path / "job/history.csv")
    assert ("auc" in history) == (metric == "auc")


def test_without_validation_the_last_epoch_is_chosen(prepared, weights, tmp_path):
    job = tmp_path / "job"
    result = finetune(prepared, weights, job, "--val-size", 0, "--preset", "authors-code")
    assert result.code == 0 and "temperature" not in result.out, result
    history = pd.read_csv(job / "history.csv")
    assert len(history) == 2 and history[["val_loss", "macro_f1"]].isna().all(axis=None)
    scores = scores_of(job)
    assert scores["epoch"] == 2 and scores["train"]["records"] == 48
    assert scores["temperature"] == read_weights(job / BEST)[1].temperature == 1
    assert "val" not in scores and not (job / "val_predictions.csv").exists()


def test_training_accuracy_stops_without_validation(prepared, weights, tmp_path):
    flags = ["--stop-metric", "train_acc", "--patience", 1, "--lr", 1e-30, "--epochs", 5]
    result = finetune(prepared, weights, tmp_path / "job", "--val-size", 0, *flags)
    assert result.code == 0 and "no better train_acc in 1 epochs: stopped" in result.out, result


def test_validation_is_drawn_before_the_subset(prepared):
    def records(**changes):
        paths = {"train": prepared / "p_train.npz"}
        parts, _ = load_parts(paths, CPU, **{"val_size": 0.25, **changes})
        return {name: set(part.record_ids.tolist()) for name, part in parts.items()}

    whole, half, other = records(), records(subset=0.5), records(seed=1)
    assert (len(whole["train"]), len(whole["val"]), len(half["train"])) == (36, 12, 18)
    assert half["val"] == whole["val"] != other["val"]
    assert half["train"] < whole["train"]
    assert not whole["train"] & whole["val"]


def test_sizes_of_the_reproduction():
    counts = np.array([590, 4040, 1965, 227])
    y = np.eye(4, dtype=np.uint8)[np.repeat(range(4), counts)]
    empty = np.zeros((0, 1), np.int16)
    prepared = PreparedSet(empty, np.zeros(6823, np.int64), y, np.arange(6822), counts, {})
    train, val = draw(prepared, np.arange(6822), 10, "--val-size", test_size=0.0625)
    assert (len(train), len(val)) == (6395, 427)
    assert np.array_equal(np.sort(np.concatenate([train, val])), np.arange(6822))
    assert abs(y[val].sum(0) / 427 - counts / 6822).max() < 1 / 427


def test_weights_are_transferred(prepared, weights, tmp_path):
    out = finetune(prepared, weights, tmp_path / "job", "--verbose", "--epochs", 1).out
    assert "25 encoder tensors transferred; dropped: head.bias, head.weight" in out
    assert "transferred encoder.stages.0.1.conv2.weight" in out
    tensors, metadata = read_weights(tmp_path / "job" / BEST)
    assert (metadata.stages, len(tensors["head.bias"])) == (1, 4)


def test_a_frozen_encoder_does_not_change(prepared, weights, job, tmp_path):
    assert finetune(prepared, weights, tmp_path / "job", "--freeze").code == 0
    before, frozen, trained = map(encoder_of, (weights, tmp_path / "job" / BEST, job / BEST))
    assert all(torch.equal(frozen[name], before[name]) for name in before)
    assert not any(torch.equal(trained[name], before[name]) for name in before)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--val", __file__, "--val-size", 0.1], ["--val-size: --val names the recordings"]),
        (["--val-size", 0, "--val-metric", "auc"], ["--val-metric: nothing validates"]),
        (["--val-size", 0, "--patience", 3], ["--patience: nothing validates"]),
        (["--val-size", 0, "--stop-metric", "val_f1"], ["--stop-metric: nothing validates"]),
        (["--freeze"], ["--freeze: needs --weights-file"]),
        (["--val-size", 0.01], ["--val-size 0.01 of 48", "number of classes"]),
        (["--val-size", 0, "--subset", 0.01], ["--subset 0.01 of", "train set will be empty"]),
        (["--val-size", 0, "--channel", 1], ["--channel 1", "leads 0 to 0"]),
        (["--weights-file", "absent"], ["absent does not exist"]),
        (["--train", __file__], ["manifest.json"]),
    ],
)
def test_bad_flags_are_one_line(prepared, tmp_path, flags, words):
    needed = ["--train", prepared / "p_train.npz", "--job-dir", tmp_path / "job"]
    command(trainer.main, *needed, "--epochs", 1, "--device", "cpu", *flags).refused(*words)
    assert not (tmp_path / "job").exists()


def test_a_validation_set_of_its_own(prepared, weights, tmp_path):
    sets = ["--train", prepared / "p_train.npz", "--val", prepared / "p_test.npz", "--epochs", 1]
    flags = ["--job-dir", tmp_path / "job", "--weights-file", weights]
    assert command(trainer.main, *sets, *flags).code == 0
    scores = scores_of(tmp_path / "job")
    assert (scores["train"]["records"], scores["val"]["records"]) == (48, 12)
    assert "test" not in scores
    twice = [*sets, "--test", prepared / "p_test.npz", "--job-dir", tmp_path / "twice"]
    command(trainer.main, *twice).refused("--test does not fit --val: holds 12")


@pytest.mark.parametrize(("key", "value"), [
    ("pad", 1024), ("labels", "v3"), ("fs", 300), ("resampling", "fft"), ("padtype", "line"),
])  # fmt: skip
def test_sets_that_do_not_belong_together(prepared, weights, tmp_path, key, value):
    other = shutil.copytree(prepared, tmp_path / "other")
    manifest = json.loads((other / "p_manifest.json").read_text())
    (other / "p_manifest.json").write_text(json.dumps(manifest | {key: value}))
    flags = ["--test", other / "p_test.npz"]
    finetune(prepared, weights, tmp_path / "job", *flags).refused("--test", key)


def test_sets_with_other_leads(prepared, weights, tmp_path):
    other = shutil.copytree(prepared, tmp_path / "other")
    test, path = load_prepared(prepared / "p_test.npz"), other / "p_test.npz"
    signals = [np.repeat(test.signal[a:b], 2, axis=1) for a, b in pairwise(test.offsets)]
    write_prepared(path, signals, test.y, test.record_ids, test.classes)
    test.manifest["files"]["test"]["sha256"] = sha256(path)
    (other / "p_manifest.json").write_text(json.dumps(test.manifest))
    flags = ["--test", path, "--epochs", 1]
    finetune(prepared, weights, tmp_path / "job", *flags).refused("--test", "leads", "--channel")
    assert finetune(prepared, weights, tmp_path / "job", *flags, "--channel", 0).code == 0


def test_a_full_disk_between_weights_and_scores(prepared, weights, job, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device", "scores.json")

    again = tmp_path / "again"
    with monkeypatch.context() as patched:
        patched.setattr(evaluation, "write_json", fail)
        finetune(prepared, weights, again).refused("No space left")
    assert (again / BEST).read_bytes() == (job / BEST).read_bytes()
    assert not (again / "scores.json").exists()
    assert finetune(prepared, weights, again, "--resume").code == 0
    assert all(contents(again)[name] == contents(job)[name] for name in REPEATABLE)


@pytest.mark.parametrize("channel", [None, 0, 1])
def test_batches_are_normalised_and_padded_in_front(channel):
    mean, sd, order = 0.25, 0.5, np.array([2, 0, 1])
    signal = np.random.default_rng(0).integers(-999, 999, (18, 2)).astype(np.int16)
    signal[0] = 1000 * mean  # normalised, it is no different from padding
    manifest = {"pad": 5, "mean_mv": mean, "sd_mv": sd}
    offsets, names = np.array([0, 3, 13, 18]), np.array(["a", "b", "c"])
    tiny = PreparedSet(signal, offsets, np.eye(3, dtype=np.uint8), names, names, manifest)
    found = list(batches(to_device(tiny, order, CPU, channel), 2))
    assert [total for *_, total in found] == [2, 1]
    x, y = (torch.cat([batch[place] for batch in found]) for place in (0, 1))
    assert y.tolist() == order.tolist()
    leads = slice(None) if channel is None else [channel]
    for row, number in zip(x.numpy(), order, strict=True):
        expected = (signal[offsets[number] : offsets[number + 1], leads][-5:].T / 1000 - mean) / sd
        padding = 5 - expected.shape[1]
        assert row.shape == (len(expected), 5) and not row[:, :padding].any()
        np.testing.assert_allclose(row[:, padding:], expected, atol=1e-5)
