"""Fine-tuning from end to end, on a small synthetic Challenge set and a short network."""

import argparse
import json
import shutil
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch

from finetuning import run, trainer
from finetuning.batches import batches, describe, pad_recordings
from finetuning.data import draw, open_data
from finetuning.prepared_set import PreparedSet, load_prepared, write_prepared
from models import Classifier
from tests.helpers import command, contents, put_weights
from utils import metrics
from utils.calibration_metrics import calibration_scores
from utils.cli import UserError
from utils.distributed import ALONE, Processes
from utils.engine import Hardware, predict
from utils.files import sha256
from utils.predictions import read_predictions
from utils.training import Training
from utils.weights import load_encoder, load_strictly, read_weights

PAD = 512
CPU = torch.device("cpu")
SMALL = [
    "--epochs", 2, "--batch-size", 16, "--val-size", 0.25, "--device", "cpu", "--precision", "fp32",
]  # fmt: skip
TABLES = ("train_predictions.csv", "val_predictions.csv", "test_predictions.csv")
REPEATABLE = ("history.csv", "best_model.safetensors", "scores.json", "MODEL_CARD.md", *TABLES)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A short network with another classifier: what makes these tests fast."""
    return put_weights(tmp_path_factory.mktemp("weights") / "weights.safetensors")


@pytest.fixture(scope="module")
def job(prepared, weights, tmp_path_factory):
    """A run with seed 0, for other tests to read."""
    folder = tmp_path_factory.mktemp("job") / "af"
    result = finetune(prepared, weights, folder, "--seed", 0)
    assert result.code == 0, result
    return folder


def finetune(prepared, weights, job_dir, *flags):
    """A later flag overrules an earlier one."""
    data = ["--train", prepared / "p_train.npz", "--test", prepared / "p_test.npz"]
    start = ["--weights-file", weights]
    return command(trainer.main, *data, *start, "--job-dir", job_dir, *SMALL, *flags)


def arguments(prepared, **changes):
    values = {
        "train": prepared / "p_train.npz", "val": None, "test": None, "weights_file": None,
        "arch": None, "val_size": 0.25, "subset": 1.0, "channel": None, "seed": 0, "freeze": False,
        "verbose": False, "stages": None, "spectrogram_window": 256, "spectrogram_hop": 32,
        "spectrogram_bins": 128, "spectrogram_scale": "linear", "augment": False,
        "balance": "none", "mixup": 0.0, "standardise": "dataset", "weight_decay": 0.0, "tta": 1,
    }  # fmt: skip
    return argparse.Namespace(**values | changes)


def bytes_of(folder):
    found = contents(folder)
    return {name: found[name] for name in REPEATABLE}


def encoder_of(path):
    return {k: v for k, v in read_weights(path)[0].items() if k.startswith("encoder.")}


def equal(state, other):
    return state.keys() == other.keys() and all(torch.equal(state[k], other[k]) for k in state)


def test_files_of_a_run(job):
    assert sorted(contents(job)) == sorted([*REPEATABLE, "args.json", "timing.csv"])
    history = pd.read_csv(job / "history.csv")
    assert list(history) == ["epoch", "loss", "acc", "val_loss", "val_acc", "f1", "cinc3"]
    assert history["epoch"].tolist() == [1, 2]
    assert history.notna().all(axis=None)
    header = "record_name,true_A,true_N,true_O,true_~,prob_A,prob_N,prob_O,prob_~"
    for name, records in zip(TABLES, (36, 12, 12), strict=True):
        lines = (job / name).read_text().splitlines()
        assert lines[0] == header and len(lines) == records + 1


def test_auc_has_a_column_where_it_chooses_the_epoch(prepared, weights, tmp_path):
    flags = ["--val-metric", "auc", "--epochs", 1]
    assert finetune(prepared, weights, tmp_path / "job", *flags).code == 0
    assert list(pd.read_csv(tmp_path / "job" / "history.csv"))[-2:] == ["cinc3", "auc"]


def test_scores_can_be_counted_again_from_the_predictions(job):
    scores = json.loads((job / "scores.json").read_text())
    for part in ("train", "val", "test"):
        table = read_predictions(job / f"{part}_predictions.csv")
        true, prob = table.true.argmax(1), np.ascontiguousarray(table.prob, np.float32)
        again = metrics.scores(true, prob, table.classes) | calibration_scores(true, prob)
        assert {name: scores[part][name] for name in again} == again
        assert ("uncalibrated" in scores[part]) == (part != "train")
    history = pd.read_csv(job / "history.csv").set_index("epoch")
    assert scores["epoch"] == history["f1"].idxmax()
    assert scores["val"]["macro_f1"] == history["f1"].max()
    assert scores["val"]["cinc3"] == history["cinc3"][scores["epoch"]]


def test_the_saved_model_of_the_chosen_epoch_predicts(prepared, weights, tmp_path, monkeypatch):
    falling = iter([0.9, 0.1])
    monkeypatch.setattr(run, "validate", lambda *_: {"val_loss": 1.0, "f1": next(falling)})
    job = tmp_path / "job"
    result = finetune(prepared, weights, job)
    assert "epoch 1 chosen by validation f1" in result.out, result
    tensors, contract = read_weights(job / "best_model.safetensors")
    encoder = load_encoder(job / "best_model.safetensors").encoder
    model = Classifier(encoder, len(contract.classes), torch.Generator())
    load_strictly(model, tensors, job)
    assert (contract.frame_size, contract.fs, contract.classes) == (PAD, 250, list("ANO~"))
    test = load_prepared(prepared / "p_test.npz")
    recordings = pad_recordings(test, np.arange(len(test)), None, CPU)
    logits, _ = predict(model, batches(recordings, 5), Hardware(CPU, bf16=False))
    table = read_predictions(job / "test_predictions.csv")
    assert table.record_names.tolist() == test.record_ids.tolist()
    assert np.array_equal(table.true, test.y)
    np.testing.assert_allclose(
        table.prob, (logits / contract.temperature).softmax(1).numpy(), atol=1e-6
    )


def test_equal_seeds_give_equal_bytes_wherever_the_data_lies(prepared, weights, job, tmp_path):
    elsewhere = shutil.copytree(prepared, tmp_path / "moved")
    again = tmp_path / "again"
    assert finetune(elsewhere, weights, again).code == 0  # seed 0 is the default
    assert bytes_of(again) == bytes_of(job)


def test_another_seed_is_another_run(prepared, weights, job, tmp_path):
    assert finetune(prepared, weights, tmp_path / "job", "--seed", 1).code == 0
    other, first = bytes_of(tmp_path / "job"), bytes_of(job)
    assert all(other[name] != first[name] for name in REPEATABLE)


def test_validation_is_drawn_before_the_subset(prepared):
    def records(**changes):
        parts = open_data(arguments(prepared, **changes), CPU).parts
        return {name: set(part.record_ids.tolist()) for name, part in parts.items()}

    whole, half, other = records(), records(subset=0.5), records(seed=1)
    assert (len(whole["train"]), len(whole["val"]), len(half["train"])) == (36, 12, 18)
    assert half["val"] == whole["val"] != other["val"]
    assert half["train"] < whole["train"]
    assert not whole["train"] & whole["val"]


def labelled(counts):
    """A set without signal, of so many recordings of each class."""
    y = np.eye(len(counts), dtype=np.uint8)[np.repeat(range(len(counts)), counts)]
    empty = np.zeros((0, 1), np.int16)
    return PreparedSet(empty, np.zeros(len(y) + 1, np.int64), y, np.arange(len(y)), counts, {})


def test_sizes_of_the_reproduction():
    counts = [590, 4040, 1965, 227]
    prepared = labelled(counts)
    train, val = draw(prepared, np.arange(6822), 10, "--val-size", test_size=0.0625)
    assert (len(train), len(val)) == (6395, 427)
    assert np.array_equal(np.sort(np.concatenate([train, val])), np.arange(6822))
    shares = prepared.y[val].sum(0) / 427 - np.array(counts) / 6822
    assert abs(shares).max() < 1 / 427


def test_too_few_recordings_to_split():
    with pytest.raises(UserError, match=r"--val-size .* of 8 recordings: every class needs"):
        draw(labelled([2, 2, 2, 2]), np.arange(8), 0, "--val-size", test_size=0.1)


@pytest.mark.parametrize("freeze", [False, True])
def test_weights_are_transferred(prepared, weights, capsys, freeze):
    args = arguments(prepared, weights_file=weights, freeze=freeze, verbose=True)
    model, contract = run.build_model(args, open_data(args, CPU))
    expected = encoder_of(weights)
    found = model.state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert (contract.stages, model.head.out_features) == (1, 4)
    out = capsys.readouterr().out
    assert "25 encoder tensors transferred; dropped: head.bias, head.weight" in out
    assert "transferred encoder.stages.0.1.conv2.weight" in out
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert (trained == {"head.weight", "head.bias"}) is freeze


def test_a_new_network_is_the_whole_one(prepared, capsys):
    args = arguments(prepared)
    run.build_model(args, open_data(args, CPU))
    assert "resnet18: 4,494,532 parameters" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "flags", "words"),
    [
        ({"fs": 300}, [], "is for 300 Hz, the data has 250"),
        ({"in_channels": 12}, [], "is for 12 leads, the data has 1"),
        ({"architecture": "resnet34"}, ["--arch", "resnet18"], "holds resnet34, not --arch"),
        ({"stages": 2}, [], "does not match the network"),
    ],
)
def test_weights_for_something_else(prepared, tmp_path, changes, flags, words):
    path = put_weights(tmp_path / "weights", **changes)
    finetune(prepared, path, tmp_path / "job", *flags).refused(str(path), words)
    assert not (tmp_path / "job").exists()


def test_frozen_encoder_stays(prepared, weights, job, tmp_path):
    assert finetune(prepared, weights, tmp_path / "job", "--freeze").code == 0
    best = "best_model.safetensors"
    assert equal(encoder_of(tmp_path / "job" / best), encoder_of(weights))
    assert not equal(encoder_of(job / best), encoder_of(weights))


@pytest.fixture
def scripted(prepared, weights, tmp_path, monkeypatch):
    """Runs the epochs with scores given in advance; the epochs run, and the one that is saved."""

    def play(rows, **changes):
        args = arguments(prepared, weights_file=weights)
        data = open_data(args, CPU)
        model, contract = run.build_model(args, data)
        fill = {"val_loss": 1.0, "val_acc": 0.0, "f1": 0.0, "cinc3": 0.0, "auc": 0.0}

        def train_epoch(*_):
            row.update({"loss": 1.0, "acc": 0.0} | fill | next(coming))
            with torch.no_grad():
                model.head.bias += 1
            return {name: row[name] for name in ("loss", "acc")}

        row, coming = {}, iter(rows)
        monkeypatch.setattr(Training, "_train", train_epoch)
        monkeypatch.setattr(run, "validate", lambda *_: {name: row[name] for name in fill})
        flags = {
            "job_dir": tmp_path, "epochs": len(rows), "patience": 50, "stop_metric": "val_loss",
            "val_metric": "f1", "lr": 0.1, "batch_size": 8, "sync_bn": False, "compile": None,
            "checkpoint_every": None,
        }  # fmt: skip
        args = argparse.Namespace(**vars(args) | flags | changes)
        training = run.make_training(args, model, contract, Hardware(CPU, bf16=False), ALONE)
        run.train(args, data, training)
        epoch = training.log.bests["val"].epoch
        assert read_weights(tmp_path / run.BEST)[0]["head.bias"].tolist() == [epoch] * 4
        return len(pd.read_csv(tmp_path / "history.csv")), epoch

    return play


@pytest.mark.parametrize(
    ("stop_metric", "column", "values"),
    [
        ("val_loss", "val_loss", [0.9, 0.8, 0.8, 0.85, 0.9, 0.1]),
        ("val_f1", "f1", [0.1, 0.2, 0.2, 0.1, 0.15, 0.9]),
        ("train_acc", "acc", [0.1, 0.2, 0.2, 0.1, 0.15, 0.9]),
    ],
)
def test_stops_after_patience_epochs_without_a_better_one(scripted, stop_metric, column, values):
    rows = [{column: value} for value in values]
    assert scripted(rows, stop_metric=stop_metric, patience=3)[0] == 5
    assert scripted(rows, stop_metric=stop_metric, patience=4)[0] == 6


@pytest.mark.parametrize(("metric", "best"), [("loss", 2), ("acc", 3), ("f1", 4), ("auc", 1)])
def test_the_metric_chooses_the_epoch(scripted, metric, best):
    columns = {
        "val_loss": [0.9, 0.2, 0.3, 0.4],
        "val_acc": [0.1, 0.2, 0.4, 0.4],
        "f1": [0.1, 0.2, 0.3, 0.4],
        "auc": [0.9, 0.8, 0.9, 0.7],
    }
    assert scripted(pd.DataFrame(columns).to_dict("records"), val_metric=metric) == (4, best)


def test_a_score_that_is_not_a_number_never_wins(scripted):
    nan = float("nan")
    rows = [{"auc": value} for value in (nan, 0.2, nan, 0.1)]
    assert scripted(rows, val_metric="auc") == (4, 2)
    assert scripted([{"auc": nan}] * 2, val_metric="auc") == (2, 1)


def test_without_validation_the_last_epoch_is_chosen(prepared, weights, tmp_path):
    job = tmp_path / "job"
    result = finetune(prepared, weights, job, "--val-size", 0)
    assert result.code == 0, result
    history = pd.read_csv(job / "history.csv")
    assert len(history) == 2 and history[["val_loss", "f1"]].isna().all(axis=None)
    scores = json.loads((job / "scores.json").read_text())
    assert scores["epoch"] == 2
    assert scores["train"]["records"] == 48
    assert scores["temperature"] == read_weights(job / "best_model.safetensors")[1].temperature == 1
    assert "temperature" not in result.out
    assert "val" not in scores and not (job / "val_predictions.csv").exists()


def test_training_accuracy_stops_without_validation(prepared, weights, tmp_path):
    flags = ["--stop-metric", "train_acc", "--patience", 1, "--lr", 1e-30, "--epochs", 5]
    result = finetune(prepared, weights, tmp_path / "job", "--val-size", 0, *flags)
    assert result.code == 0 and "no better train_acc in 1 epochs: stopped" in result.out, result


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--val", __file__, "--val-size", 0.1], "--val-size: --val names the recordings"),
        (["--val-size", 0, "--val-metric", "auc"], "--val-metric: nothing validates"),
        (["--val-size", 0, "--patience", 3], "--patience: nothing validates"),
        (["--val-size", 0, "--stop-metric", "val_f1"], "--stop-metric: nothing validates"),
        (["--freeze"], "--freeze: needs --weights-file"),
    ],
)
def test_flags_that_would_do_nothing(prepared, tmp_path, flags, words):
    needed = ["--train", prepared / "p_train.npz", "--job-dir", tmp_path / "job"]
    command(trainer.main, *needed, "--epochs", 1, "--device", "cpu", *flags).refused(words)
    assert not (tmp_path / "job").exists()


def test_a_preset_may_name_what_is_not_used(prepared, weights, tmp_path):
    flags = ["--preset", "authors-code", "--val-size", 0, "--epochs", 1]
    assert finetune(prepared, weights, tmp_path / "job", *flags).code == 0


def test_validation_set_of_its_own(prepared, weights, tmp_path):
    flags = ["--job-dir", tmp_path / "job", "--weights-file", weights, "--epochs", 1]
    sets = ["--train", prepared / "p_train.npz", "--val", prepared / "p_test.npz"]
    result = command(trainer.main, *sets, *flags)
    assert result.code == 0, result
    scores = json.loads((tmp_path / "job" / "scores.json").read_text())
    assert (scores["train"]["records"], scores["val"]["records"]) == (48, 12)
    assert "test" not in scores


def test_sets_must_not_share_recordings(prepared, weights, tmp_path):
    for shared, words in (
        ("train", "--val holds 48 recordings of --train"),
        ("test", "--test holds 12 recordings of --val"),
    ):
        sets = ["--train", prepared / "p_train.npz", "--test", prepared / "p_test.npz"]
        flags = ["--val", prepared / f"p_{shared}.npz", "--job-dir", tmp_path / "job"]
        command(trainer.main, *sets, *flags).refused(words)


LENGTHS, LEADS, SHORT = (3, 10, 5), 2, 5
MEAN, SD = 0.25, 0.5


def tiny_set():
    offsets = np.concatenate([[0], np.cumsum(LENGTHS)])
    signal = np.random.default_rng(0).integers(-999, 999, (sum(LENGTHS), LEADS)).astype(np.int16)
    signal[0] = 1000 * MEAN  # normalised, it is no different from padding
    manifest = {"pad": SHORT, "mean_mv": MEAN, "sd_mv": SD}
    classes, names = np.array(["A", "N", "O"]), np.array(["a", "b", "c"])
    return PreparedSet(signal, offsets, np.eye(3, dtype=np.uint8), names, classes, manifest)


@pytest.mark.parametrize("channel", [None, 0, 1])
def test_batches_are_normalised_then_padded_in_front(channel):
    tiny, chosen = tiny_set(), np.array([2, 0, 1])
    recordings = pad_recordings(tiny, chosen, channel, CPU)
    found = list(batches(recordings, 2))
    assert [total for *_, total in found] == [2, 1]
    assert [tuple(x.shape) for x, *_ in found] == [
        (size, LEADS if channel is None else 1, SHORT) for size in (2, 1)
    ]
    x, y = (torch.cat([batch[place] for batch in found]) for place in (0, 1))
    assert y.tolist() == [2, 0, 1] and recordings.record_ids.tolist() == ["c", "a", "b"]
    signals = [tiny.signal[first:end] for first, end in pairwise(tiny.offsets)]
    for row, number in zip(x.numpy(), chosen, strict=True):
        signal = signals[number] if channel is None else signals[number][:, [channel]]
        expected = (signal[-SHORT:].T / 1000 - MEAN) / SD
        valid = expected.shape[1]
        assert not row[:, : SHORT - valid].any()
        np.testing.assert_allclose(row[:, SHORT - valid :], expected, atol=1e-5)


def test_batches_in_an_order_of_their_own():
    recordings = pad_recordings(tiny_set(), np.arange(3), None, CPU)
    in_order = torch.cat([x for x, *_ in batches(recordings, 3)])
    order = np.array([1, 2, 0])
    assert torch.equal(torch.cat([x for x, *_ in batches(recordings, 2, order)]), in_order[order])


def test_batches_name_their_recordings(prepared):
    train = load_prepared(prepared / "p_train.npz")
    recordings = pad_recordings(train, np.arange(48), None, CPU)
    order = np.random.default_rng(0).permutation(48)
    expected = recordings.record_ids[order].tolist()
    assert describe(recordings, 20, 1, order) == f"{', '.join(expected[20:23])}, … (20 recordings)"
    assert describe(recordings, 45, 1, order) == f"{', '.join(expected[45:])} (3 recordings)"
    names = f"{expected[11]}, {expected[16]}"
    assert describe(recordings, 10, 1, order, Processes(1, 5)) == f"{names} (2 recordings)"
    assert describe(recordings, 1, 2) == f"{recordings.record_ids[2]} (1 recordings)"


def test_recordings_that_are_not_finite_are_named_first():
    tiny = tiny_set()
    for sd, expected in ((1.0, "c (1 recordings)"), (0.0, "c (1 of 1 recordings, not finite)")):
        tiny.manifest["sd_mv"] = sd
        assert describe(pad_recordings(tiny, np.arange(3), None, CPU), 2, 1) == expected


def test_a_run_is_not_replaced_by_accident(prepared, weights, job, tmp_path):
    before = contents(job)
    finetune(prepared, weights, job).refused(str(job), "--overwrite")
    text = tmp_path / "text.npz"
    text.write_text("no arrays")
    finetune(prepared, weights, job, "--overwrite", "--train", text).refused("text.npz")
    finetune(prepared, text, job, "--overwrite").refused("text.npz", "safetensors")
    assert contents(job) == before


def test_sets_that_do_not_belong_together(prepared, weights, tmp_path):
    other = shutil.copytree(prepared, tmp_path / "other")
    manifest = json.loads((other / "p_manifest.json").read_text())
    for key, value in (("pad", 1024), ("labels", "v3"), ("fs", 300)):
        (other / "p_manifest.json").write_text(json.dumps(manifest | {key: value}))
        flags = ["--test", other / "p_test.npz"]
        finetune(prepared, weights, tmp_path / "job", *flags).refused("--test", key)
    assert not (tmp_path / "job").exists()


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


def test_bad_input_is_one_line(prepared, weights, tmp_path):
    for flags, words in (
        (["--val-size", 0.01], ["--val-size 0.01 of 48", "every class"]),
        (["--subset", 0.01], ["--subset 0.01 of", "every class"]),
        (["--channel", 1], ["--channel 1", "leads 0 to 0"]),
        (["--weights-file", tmp_path / "absent"], ["absent does not exist"]),
        (["--train", prepared / "p_manifest.json"], ["p_manifest.json is not a prepared set"]),
    ):
        finetune(prepared, weights, tmp_path / "job", *flags).refused(*words)
    assert not (tmp_path / "job").exists()
