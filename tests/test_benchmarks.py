"""Benchmarks run; what they measure is not asserted."""

import json

from benchmarks import train
from tests.helpers import command


def test_training_step(tmp_path):
    flags = ["--frame-size", 64, "--batch-size", 2, "--seconds", 0.01, "--repeats", 3]
    result = command(train.main, *flags, "--device", "cpu", "--out", tmp_path / "train.json")
    assert result.code == 0, result
    report = json.loads((tmp_path / "train.json").read_text())
    assert {"plain fp32, Conv1d"} <= report["median"].keys()
    for name, values in report["frames_per_second"].items():
        assert len(values) == 3 and min(values) <= report["median"][name] <= max(values)
        assert f"{report['median'][name]:.1f}" in result.out
    assert "bf16, channels-last" in result.out
