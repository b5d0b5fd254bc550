"""Benchmarks run and print and save every figure; what they measure is not asserted."""

import json

import pytest

from benchmarks import speed
from tests.helpers import command

SMALL = ["--repeats", 1, "--steps", 1, "--batch-size", 2, "--frames", 600, "--patients", 2,
         "--recordings", 4, "--hours", 0.02, "--device", "cpu"]  # fmt: skip


@pytest.mark.parametrize("what", sorted(speed.MEASURES.keys() - {"prepare"}))
def test_figures_are_printed_and_saved(what, tmp_path, monkeypatch):
    monkeypatch.setitem(speed.MATRIX_SIZES, "cpu", (64,))
    out = tmp_path / "speed.json"
    result = command(speed.main, what, *SMALL, "--out", out)
    assert result.code == 0, result
    figures = json.loads(out.read_text())["figures"]
    assert len(figures) >= 2
    for name, values in figures.items():
        assert name in result.out and len(values) == 1 and values[0] > 0


def test_prepare_needs_recordings():
    command(speed.main, "prepare").refused("prepare needs --data")


def test_a_command_that_fails_is_named():
    with pytest.raises(speed.cli.UserError, match=r"finetuning\.predict failed"):
        speed.run_module("finetuning.predict", "nothing")
