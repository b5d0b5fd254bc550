"""Flags: what they accept, presets, and the one line that says what is wrong."""

import importlib
import os
import subprocess
import sys
from argparse import ArgumentTypeError

import pytest
import torch

from finetuning import prepare
from finetuning import trainer as finetuning
from pretraining import trainer as pretraining
from tests.helpers import ROOT, command
from utils import cli
from utils.cli import PRESETS

COMMANDS = {
    "pretraining.trainer": ["--job-dir", "x", "--task", "beat", "--train", "."],
    "pretraining.convert": ["--source", "mitdb", "--from", ".", "--out", "x"],
    "pretraining.import_tensorflow": ["--checkpoint", "x", "--out", "x"],
    "pretraining.utils": ["--checkpoint", __file__, "--out", "x"],
    "finetuning.prepare": ["--source", ".", "--labels", "zip"],
    "finetuning.trainer": ["--job-dir", "x", "--train", __file__],
    "finetuning.predict.external_validation": [
        "--weights", __file__, "--records", ".", "--out", "x.csv",
    ],
    "report.compare": ["--results", "."],
    "recordings.download": ["mitdb", "--out", "x"],
    "recordings.synthetic": ["--out", "x"],
    "utils.weights": [__file__],
}  # fmt: skip
PRETRAIN, FINETUNE = "pretraining.trainer", "finetuning.trainer"


def call(name, *flags):
    return command(importlib.import_module(name).main, *COMMANDS[name], *flags)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (cli.id_list, "0", [0]),
        (cli.id_list, "5,1-3,2", [1, 2, 3, 5]),
        (cli.id_list, "10998-10999", [10998, 10999]),
        (cli.share_or_count, "0.0", 0),
        (cli.share_or_count, "0.05", 0.05),
        (cli.share_or_count, "20", 20),
        *((cli.id_list, text, None) for text in ("", "a", "1,,2", "-1", "1-", "3-1", "1.5")),
        *((cli.share_or_count, text, None) for text in ("-1", "-0.1", "1.5", "inf", "nan", "x")),
    ],
)
def test_values(kind, text, value):
    if value is None:
        with pytest.raises(ArgumentTypeError):
            kind(text)
    else:
        parsed = kind(text)
        assert parsed == value and type(parsed) is type(value)


@pytest.mark.parametrize(
    ("name", "flag"), [*((name, "--bogus") for name in COMMANDS), (PRETRAIN, "--val-met=f1")]
)
def test_unknown_or_shortened_flag(name, flag):
    call(name, flag).refused("unrecognized", flag, "--help")


@pytest.mark.parametrize(
    ("name", "given", "meant"),
    [
        (PRETRAIN, "--val-met=f1", "--val-metric"),
        (PRETRAIN, "--batchsize=8", "--batch-size"),
        (PRETRAIN, "--steps=8", "--steps-per-epoch"),
        (PRETRAIN, "--Frame_size=8", "--frame-size"),
        ("finetuning.prepare", "--overwrit", "--overwrite"),
        ("utils.weights", "--nothing-like-it", None),
    ],
)
def test_the_flag_that_was_meant(name, given, meant):
    result = call(name, given)
    result.refused(f"did you mean {meant}?" if meant else "unrecognized")
    assert ("did you mean" in result.err) == bool(meant)


def test_a_mistyped_flag_that_is_required():
    words = ["--job_dir", "x", "--train", __file__]
    command(finetuning.main, *words).refused(
        "required: --job-dir; --job_dir: did you mean --job-dir"
    )


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    "words", [["utils.weights", "weights/af_resnet18.safetensors"], [FINETUNE, "--help"]]
)
def test_nobody_reads_the_output(words, unbuffered):
    read_end, write_end = os.pipe()
    os.close(read_end)
    process = subprocess.run(
        [sys.executable, "-m", *words], cwd=ROOT, stdout=write_end, stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
    )  # fmt: skip
    os.close(write_end)
    assert not process.stderr


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        (PRETRAIN, [
            "--task=sleep", "--train=no/such/folder", "--patient-ids=4-2", "--val-patients=1.5",
            "--frame-size=0", "--batch-size=many", "--lr=nan", "--lr=-1", "--seed=-1",
            f"--seed={2**32}", "--val-metric=auc",
        ]),
        (FINETUNE, [
            "--val-size=1", "--subset=0", "--subset=1.1", "--channel=-1", "--patience=0",
            "--stop-metric=f1", "--warmup=1.5", "--weight-decay=-1", "--ema=1", "--mixup=inf",
            "--tta=0", "--train=no/such/file",
        ]),
    ],
)  # fmt: skip
def test_bad_value(name, flags):
    for flag in flags:
        call(name, flag).refused(flag.partition("=")[0])


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (cli.UserError("x.npz is odd; make it anew"), "x.npz is odd; make it anew"),
        (cli.UserError("a\nb\x1b[2J" + "c" * 10**5), "error: a b [2Jccc"),
        (FileNotFoundError(2, "No such file or directory", "gone.npz"), "gone.npz: No such file"),
        (OSError(28, "No space left on device"), "file system: No space left on device; is"),
        (ModuleNotFoundError(name="no_such"), "no_such is not installed"),
        *(
            (error, "out of memory; lower --batch-size")
            for error in (
                MemoryError(),
                torch.OutOfMemoryError("CUDA out of memory."),
                RuntimeError(
                    "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"
                ),
                RuntimeError(
                    "DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes"
                ),
            )
        ),
        (ValueError("a bug"), None),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), None),
        (BrokenPipeError(32, "Broken pipe"), None),  # not that of the output
        (RuntimeError("Expected memory format torch.channels_last"), None),
    ],
)
def test_failures_are_one_line(error, words):
    def main():
        raise error

    if words:
        command(main).refused(words)
    else:  # a bug keeps its traceback
        with pytest.raises(type(error)):
            command(main)


def test_as_a_process():
    process = subprocess.run(
        [sys.executable, "-m", PRETRAIN, "--bogus"], cwd=ROOT, capture_output=True, text=True
    )
    assert process.returncode == 2
    assert process.stderr.startswith("error: ") and process.stderr.count("\n") == 1
    assert not process.stdout


# Presets


@pytest.fixture
def parse(monkeypatch, tmp_path):
    file = tmp_path / "set_train.npz"
    file.write_text("")
    job = ["--job-dir", "job", "--train", file]
    needed = {
        "pretraining": (pretraining, [*job[:3], tmp_path, "--task", "beat"]),
        "prepare": (prepare, ["--source", tmp_path, "--labels", "zip"]),
        "finetuning": (finetuning, job),
    }

    def parse(name, *flags):
        module, words = needed[name]
        monkeypatch.setattr(sys, "argv", list(map(str, ["command", *words, *flags])))
        return module.parse_arguments()

    return parse


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_sets_its_flags_and_no_others(parse, name):
    plain = vars(parse(name))
    assert PRESETS[name].keys() == {"paper", "authors-code", "team1"}
    for preset, values in PRESETS[name].items():
        assert vars(parse(name, "--preset", preset)) == plain | values | {"preset": preset}
        assert values.keys() <= plain.keys()


def test_a_flag_that_is_given_wins(parse):
    args = parse("pretraining", "--batch-size", 7, "--preset", "team1", "--frame-size", 2048)
    assert (args.batch_size, args.frame_size, args.steps_per_epoch) == (7, 2048, 1024)
    args = parse("finetuning", "--preset", "paper", "--stop-metric", "val_loss")
    assert args.stop_metric == "val_loss"  # though it is the default
