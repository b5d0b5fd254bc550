"""Flags: what they accept, and the one line that says what is wrong."""

import importlib
import subprocess
import sys
from argparse import ArgumentTypeError

import pytest

from tests.helpers import ROOT, command
from utils import cli

COMMANDS = {
    "pretraining.trainer": ["--job-dir", "x", "--task", "beat", "--train", "."],
    "pretraining.convert": ["--source", "mitdb", "--from", ".", "--out", "x"],
    "pretraining.import_tensorflow": ["--checkpoint", "x", "--out", "x"],
    "pretraining.utils": ["--checkpoint", __file__, "--out", "x"],
    "finetuning.prepare": ["--source", ".", "--labels", "zip"],
    "finetuning.trainer": ["--job-dir", "x", "--train", __file__],
    "finetuning.predict.external_validation": [
        "--weights",
        __file__,
        "--records",
        ".",
        "--out",
        "x.csv",
    ],
    "report.compare": ["--results", "."],
    **{
        f"benchmarks.{name}": []
        for name in ("finetune", "holter", "infer", "loader", "scale", "train")
    },
    "study.__main__": ["run", __file__],
    "utils.weights": [__file__],
    "recordings.download": ["mitdb", "--out", "x"],
    "recordings.synthetic": ["--out", "x"],
}
PRETRAIN, FINETUNE = "pretraining.trainer", "finetuning.trainer"


def call(name, *flags):
    return command(importlib.import_module(name).main, *COMMANDS[name], *flags)


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("0", [0]),
        ("2,0,1", [0, 1, 2]),
        ("0-3", [0, 1, 2, 3]),
        ("5,1-3,2", [1, 2, 3, 5]),
        ("10998-10999", [10998, 10999]),
    ],
)
def test_id_list(text, ids):
    assert cli.id_list(text) == ids


@pytest.mark.parametrize("text", ["", "a", "1,,2", "-1", "1-", "3-1", "1,3-1", "1.5"])
def test_not_an_id_list(text):
    with pytest.raises((ValueError, ArgumentTypeError)):
        cli.id_list(text)


@pytest.mark.parametrize(
    ("text", "value"), [("0", 0), ("0.0", 0), ("0.05", 0.05), ("1", 1), ("20", 20)]
)
def test_share_or_count(text, value):
    found = cli.share_or_count(text)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("text", ["-1", "-0.1", "1.5", "inf", "nan", "x"])
def test_neither_share_nor_count(text):
    with pytest.raises((ValueError, ArgumentTypeError)):
        cli.share_or_count(text)


def test_a_library_that_is_missing():
    def main():
        import no_such_library  # noqa: F401

    command(main).refused("no_such_library is not installed", "requirements.txt")


@pytest.mark.parametrize("name", COMMANDS)
def test_unknown_flag(name):
    call(name, "--bogus").refused("--bogus", "--help")


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        (PRETRAIN, ["--val-met", "f1"]),
        (PRETRAIN, ["--over"]),
        (FINETUNE, ["--val-met", "f1"]),
        (FINETUNE, ["--weights", "x"]),
    ],
)
def test_shortened_flag(name, flags):
    call(name, *flags).refused("unrecognized", flags[0])


@pytest.mark.parametrize(
    ("name", "flag", "value"),
    [
        (PRETRAIN, "--task", "sleep"),
        (PRETRAIN, "--train", "no/such/folder"),
        (PRETRAIN, "--patient-ids", "4-2"),
        (PRETRAIN, "--val-patients", "1.5"),
        (PRETRAIN, "--frame-size", "0"),
        (PRETRAIN, "--batch-size", "many"),
        (PRETRAIN, "--lr", "nan"),
        (PRETRAIN, "--lr", "-1"),
        (PRETRAIN, "--seed", "-1"),
        (PRETRAIN, "--seed", str(2**32)),
        (PRETRAIN, "--val-metric", "auc"),
        (FINETUNE, "--val-size", "1"),
        (FINETUNE, "--subset", "0"),
        (FINETUNE, "--subset", "1.1"),
        (FINETUNE, "--channel", "-1"),
        (FINETUNE, "--patience", "0"),
        (FINETUNE, "--stop-metric", "f1"),
        (FINETUNE, "--warmup", "1.5"),
        (FINETUNE, "--weight-decay", "-1"),
        (FINETUNE, "--ema", "1"),
        (FINETUNE, "--mixup", "inf"),
        (FINETUNE, "--tta", "0"),
        (FINETUNE, "--train", "no/such/file"),
    ],
)
def test_bad_value(name, flag, value):
    call(name, f"{flag}={value}").refused(flag)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (cli.UserError("x.npz is odd; make it anew"), "x.npz is odd; make it anew"),
        (cli.UserError("a\nb\x1b[2J" + "c" * 10**5), "error: a b [2Jccc"),
        (FileNotFoundError(2, "No such file or directory", "gone.npz"), "gone.npz: No such file"),
        (OSError(28, "No space left on device"), "file system: No space left on device; free"),
    ],
)
def test_failures_are_one_line(error, words):
    def main():
        raise error

    command(main).refused(words)


def test_a_bug_keeps_its_traceback():
    def main():
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        command(main)


def test_as_a_process():
    found = subprocess.run(
        [sys.executable, "-m", PRETRAIN, "--bogus"], cwd=ROOT, capture_output=True, text=True
    )
    assert found.returncode == 2
    assert found.stderr.startswith("error: ") and found.stderr.count("\n") == 1
    assert not found.stdout
