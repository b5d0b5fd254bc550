"""Tables and figures of finished runs."""

import gzip
import json

import numpy as np
import pandas as pd
import pytest

from report import collect, compare, statistics
from tests.helpers import command, contents
from utils import metrics
from utils.cli import UserError
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
    results = collect.from_jobs([compare.scenario(flag) for flag in flags])
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


def test_command_saves_results_that_give_the_same_table(runs, tmp_path):
    flags, _ = runs
    saved, figure = tmp_path / "saved", tmp_path / "f.png"
    first = command(compare.main, "--jobs", *flags, "--save", saved, "--figure", figure)
    assert first.code == 0 and figure.read_bytes()[:4] == b"\x89PNG", first
    again = command(compare.main, "--results", saved)
    assert set(again.out.splitlines()) <= set(first.out.splitlines())
    assert len(again.out.splitlines()) == 3
    before = contents(saved)
    command(compare.main, "--jobs", *flags, "--save", saved)
    assert contents(saved) == before


def test_runs_that_cannot_be_compared(tmp_path):
    make_run(tmp_path / "one", 10)
    make_run(tmp_path / "again", 10)
    make_run(tmp_path / "other", 20, records=41)
    for name, words in (("again", "two runs with seed 10"), ("other", "other recordings")):
        with pytest.raises(UserError, match=words):
            collect.from_jobs([("beat", [tmp_path / "one", tmp_path / name])])


@pytest.mark.parametrize("kind", ["predictions", "history"])
@pytest.mark.parametrize("damage", ["cut", "changed", "no gzip", "other columns", "empty"])
def test_damaged_results_are_one_line(runs, tmp_path, kind, damage):
    command(compare.main, "--jobs", *runs[0], "--save", tmp_path / "saved")
    path = tmp_path / f"saved/beat_{kind}.csv.gz"
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes({
        "cut": content[:-20], "changed": content[:middle] + bytes(9) + content[middle + 9:],
        "no gzip": b"text", "empty": gzip.compress(b""),
        "other columns": gzip.compress(gzip.decompress(content).replace(b"seed", b"seat")),
    }[damage])  # fmt: skip
    command(compare.main, "--results", tmp_path / "saved").refused(path.name)


def test_a_run_without_a_seed_or_with_other_values(tmp_path):
    make_run(tmp_path / "job", 10)
    for content in ("1", "{}", '{"arguments": {"seed": null}}'):
        (tmp_path / "job/args.json").write_text(content)
        command(compare.main, "--jobs", f"a={tmp_path / 'job'}").refused("names no seed")
    make_run(tmp_path / "other", 10)
    path = tmp_path / "other/test_predictions.csv"
    table = pd.read_csv(path)
    for column, value in (("prob_A", "nan"), ("true_A", 7), ("true_A", "9" * 400)):
        table.astype({column: object}).assign(**{column: value}).to_csv(path, index=False)
        result = command(compare.main, "--jobs", f"a={tmp_path / 'other'}")
        result.refused("is not a table of predictions")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--jobs", "random=nowhere"], "nowhere"),
        (["--jobs", "random"], "name=folder"),
        (["--results", "nowhere"], "nowhere"),
        (["--results", ".", "--figure", "f.xyz"], ".png"),
        ([], "--jobs"),
    ],
)
def test_bad_input_is_one_line(flags, words):
    command(compare.main, *flags).refused(words)
