"""Benchmarks run; what they measure is not asserted."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import finetune, holter, infer, loader, scale, train
from benchmarks.measures import limits
from benchmarks.measures import scale as scale_measures
from benchmarks.measures.loader import beat_label, open_batches, read_blocks, read_frames
from benchmarks.measures.timing import in_turns
from pretraining import labels
from pretraining.icentia11k.index import open_index
from tests.helpers import command

STEP = ["plain fp32, Conv1d", "the trainer"]
RUNS = {
    train: (
        ["--frame-size", 64, "--batch-size", 2, "--seconds", 0.01],
        {"frames_per_second": ["plain fp32, Conv1d", "the trainer's step", "bf16, channels-last",
                               "fp32, channels-last", "pretraining.trainer"],
         "gflops_per_second": ["matrix product", "the trainer's step", "pretraining.trainer"]},
    ),
    finetune: (
        ["--pad", 256, "--batch-size", 4, "--recordings", 12, "--measured", 6],
        {"seconds_per_epoch": [*STEP, "prediction"],
         "gflops_per_second": ["matrix product", "the trainer"]},
    ),
    loader: (
        ["--frames", 300, "--frame-size", 256, "--batch-size", 32, "--segments", 2,
         "--samples", 2000],
        {"frames_per_second": ["the trainer's blocks, int16", "the same, normalised on the device",
                               "a generator of frames, int16", "copy of as many bytes"]},
    ),
    infer: (
        ["--runs", 1],
        {"milliseconds": ["file to probabilities", "of which: reading the file",
                          "of which: the rest", "file to probabilities, fp32",
                          "its matrix products at the machine's rate"]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("benchmark", RUNS, ids=lambda module: module.__name__)
def test_table_and_file(benchmark, tmp_path, monkeypatch):
    monkeypatch.setitem(limits.SIDES, "cpu", (64,))
    flags, expected = RUNS[benchmark]
    out = tmp_path / "figures.json"
    result = command(benchmark.main, *flags, "--repeats", 2, "--device", "cpu", "--out", out)
    assert result.code == 0, result
    report = json.loads(out.read_text())
    assert report["flags"]["repeats"] == 2 and "out" not in report["flags"]
    assert report["machine"] and report["versions"]["torch"]
    for figure, names in expected.items():
        assert set(report[figure]) == set(names)
        for name, values in report[figure].items():
            assert len(values) == 2 and min(values) > 0
            assert name in result.out


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_scale(tmp_path):
    out = tmp_path / "scale.json"
    small = ["--segments", 2, "--samples", 4096, "--repeats", 1]
    result = command(scale.main, "--patients", 2, 3, *small, "--out", out)
    assert result.code == 0, result
    columns = json.loads(out.read_text())["by_patients"]
    assert list(columns) == ["2", "3", "11000"]
    far = columns["11000"]
    for name in far.keys() - {scale_measures.IMPORTS, "start_s"}:
        low, high = columns["2"][name], columns["3"][name]
        assert far[name] == pytest.approx(high + (high - low) * 10_997)
    assert far[scale_measures.IMPORTS] == columns["3"][scale_measures.IMPORTS]
    assert far["start_s"] == pytest.approx(sum(far[part] for part in scale_measures.PARTS))
    assert "11,000 (extrapolated)" in result.out and "anonymous memory, MB" in result.out


def test_holter(tmp_path):
    out = tmp_path / "holter.json"
    result = command(holter.main, "--hours", 0.02, "--device", "cpu", "--out", out)
    assert result.code == 0, result
    report = json.loads(out.read_text())
    for figure in ("seconds", "peak_mb"):
        assert set(report[figure]) == {"WFDB, two leads", "EDF, one lead"}
        assert all(values[0] > 0 for values in report[figure].values())


def test_variants_take_turns():
    called = []
    variants = {name: lambda name=name: called.append(name) or len(called) for name in "ab"}
    assert in_turns(variants, 3) == {"a": [1, 3, 5], "b": [2, 4, 6]}
    assert called == list("ababab")


def test_both_ways_of_reading_yield_labelled_frames(cohort_folder, tmp_path):
    flags = argparse.Namespace(frame_size=256, batch_size=16, frames=70)
    batches, patients = open_batches(flags, open_index(cohort_folder, tmp_path))
    segments, starts, expected = batches.examples(range(5))
    ((signals, found, rows),) = read_blocks(batches)
    signals = signals[rows]
    assert found.tolist() == expected.tolist() and len(signals) == 70
    for row, segment, start in zip(signals.numpy(), segments[:, 0], starts[:, 0], strict=True):
        np.testing.assert_array_equal(row, batches.signals.windows(segment)[start])
    singles = list(read_frames(batches, patients))
    assert [tuple(x.shape) for x, _ in singles] == [(16, 256)] * 4 + [(6, 256)]
    kinds = {(x.dtype, y.dtype) for x, y in (*singles, (signals, found))}
    assert kinds == {(torch.int16, torch.int64)}
    assert len(set(torch.cat([y for _, y in singles]).tolist())) > 2


def test_label_of_a_single_frame():
    rng = np.random.default_rng(0)
    ends, codes = np.sort(rng.choice(5000, 60, replace=False)), rng.choice(5, 60)
    starts = np.arange(0, 4500, 37)
    expected = labels.beat_labels(ends, codes, starts, 400)
    assert [beat_label(ends, codes, start, start + 400) for start in starts] == expected.tolist()
    assert len(set(expected)) > 2
