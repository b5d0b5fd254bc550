"""Presets set several flags at once; a flag that is given wins."""

import sys

import pytest

from finetuning import prepare
from finetuning import trainer as finetuning
from pretraining import trainer as pretraining
from utils.cli import PRESETS


@pytest.fixture
def parse(monkeypatch, tmp_path):
    file = tmp_path / "set_train.npz"
    file.write_text("")
    job = ["--job-dir", "job", "--train", file]
    needed = {
        pretraining: [*job, "--task", "beat"],
        prepare: ["--source", tmp_path, "--labels", "zip"],
        finetuning: job,
    }

    def parse(command, *flags):
        argv = ["command", *needed[command], *flags]
        monkeypatch.setattr(sys, "argv", list(map(str, argv)))
        return command.parse_arguments()

    return parse


TABLES = {
    pretraining: PRESETS["pretraining"],
    prepare: PRESETS["prepare"],
    finetuning: PRESETS["finetuning"],
}


@pytest.mark.parametrize("command", TABLES)
@pytest.mark.parametrize("preset", PRESETS["prepare"])
def test_a_preset_sets_its_flags_and_no_others(parse, command, preset):
    plain, found = vars(parse(command)), vars(parse(command, "--preset", preset))
    assert found == plain | TABLES[command][preset] | {"preset": preset}
    assert set(TABLES[command][preset]) <= set(plain)


def test_a_flag_that_is_given_wins(parse):
    args = parse(pretraining, "--batch-size", 7, "--preset", "team1", "--frame-size", 2048)
    assert (args.batch_size, args.frame_size, args.steps_per_epoch) == (7, 2048, 1024)
    args = parse(finetuning, "--preset", "paper", "--stop-metric", "val_loss")
    assert args.stop_metric == "val_loss"  # though it is the default
    args = parse(prepare, "--preset", "team1", "--resampling", "polyphase")
    assert (args.resampling, args.pad) == ("polyphase", 16384)


def test_all_tables_know_all_presets():
    for table in TABLES.values():
        assert table.keys() == PRESETS["prepare"].keys()


def test_recipes_of_the_works(parse):
    """Batch 512, frame 4096, a checkpoint every 1,024 steps; batch 128."""
    team1 = parse(pretraining, "--preset", "team1")
    assert (team1.batch_size, team1.frame_size, team1.steps_per_epoch) == (512, 4096, 1024)
    assert team1.samples_per_patient == 4096
    assert parse(prepare, "--preset", "team1").resampling == "fft"
    assert parse(prepare, "--preset", "paper").pad == 60 * 250
    assert parse(finetuning, "--preset", "team1").batch_size == 128
    assert parse(finetuning, "--preset", "paper").stop_metric == "train_acc"
    authors = parse(finetuning, "--preset", "authors-code")
    assert (authors.val_metric, authors.stop_metric, authors.patience) == ("loss", "val_loss", 50)
