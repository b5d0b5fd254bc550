"""Tables and figures of finished runs."""

import json
import sys

import numpy as np
import pandas as pd
import pytest

from report import collect, compare, statistics
from utils import cli, metrics
from utils.predictions import write_predictions

CLASSES = ["A", "N", "O", "~"]


def make_run(folder, seed, records=40):
    rng = np.random.default_rng(seed)
    true, prob = rng.integers(4, size=records), rng.dirichlet(np.ones(4), records)
    names = [f"A{number:05d}" for number in range(records)]
    folder.mkdir(parents=True)
    write_predictions(folder / "test_predictions.csv", names, CLASSES, np.eye(4)[true], prob)
    history = {"epoch": [1, 2], "f1": rng.random(2)}
    pd.DataFrame(history).to_csv(folder / "history.csv", index=False)
    (folder / "args.json").write_text(json.dumps({"arguments": {"seed": seed}}))
    (folder / "scores.json").write_text("{}")
    return metrics.scores(true, prob, CLASSES)


@pytest.fixture
def runs(tmp_path):
    scores = {(name, seed): make_run(tmp_path / f"{name}{seed}", seed)
              for name, seed in (("random", 10), ("random", 20), ("beat", 30))}  # fmt: skip
    flags = [f"random={tmp_path}/random10,{tmp_path}/random20", f"beat={tmp_path}/beat30"]
    return flags, scores


def test_scores_of_each_run_are_recomputed(runs):
    flags, expected = runs
    results = collect.from_jobs(dict(compare.scenario(flag) for flag in flags))
    for _, row in statistics.score_runs(results.predictions).iterrows():
        run = expected[row["scenario"], row["seed"]]
        assert row["macro F1"] == pytest.approx(run["macro_f1"], abs=1e-6)
        assert row["CinC-3"] == pytest.approx(run["cinc3"], abs=1e-6)
        assert row["F1 ~"] == pytest.approx(run["f1"]["~"], abs=1e-6)


def test_summary_is_rounded_and_uses_the_sample_deviation():
    scores = pd.DataFrame({
        "scenario": ["a", "a", "b"], "seed": [1, 2, 1], "macro F1": [0.9996, 1.0, 0.5]
    })  # fmt: skip
    table = statistics.summarise(scores)
    assert table["macro F1"].tolist() == ["1.000 ± 0.000", "0.500"]
    scores["macro F1"] = [0.7, 0.8, 0.5]
    assert statistics.summarise(scores)["macro F1"][0] == "0.750 ± 0.071"


def test_command_saves_results_that_give_the_same_table(runs, tmp_path, monkeypatch, capsys):
    flags, _ = runs

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["compare", *map(str, arguments)])
        cli.run(compare.main)
        return capsys.readouterr().out

    first = call("--jobs", *flags, "--save", tmp_path / "saved", "--figure", tmp_path / "f.png")
    assert (tmp_path / "f.png").read_bytes()[:4] == b"\x89PNG"
    again = call("--results", tmp_path / "saved")
    assert set(first.splitlines()[1:3]) == set(again.splitlines()[1:3])
    before = {path.name: path.read_bytes() for path in (tmp_path / "saved").iterdir()}
    call("--jobs", *flags, "--save", tmp_path / "saved")
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "saved").iterdir()}


@pytest.mark.parametrize("flags", [
    ["--jobs", "random=nowhere"], ["--jobs", "random"], ["--results", "nowhere"], [],
])  # fmt: skip
def test_bad_input_is_one_line(flags, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["compare", *flags])
    with pytest.raises(SystemExit) as stop:
        cli.run(compare.main)
    err = capsys.readouterr().err
    assert stop.value.code == 2 and err.startswith("error: ") and err.count("\n") == 1
