"""Tables and figures of finished runs."""

import gzip
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from report import collect, compare, provenance, scenarios, statistics
from tests.helpers import command, contents, put_weights
from utils import metrics
from utils.cli import UserError
from utils.files import read_json, write_json
from utils.manifest import digest
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


def test_cells_with_fewer_labels_are_scenarios_of_their_own():
    cells = [SimpleNamespace(scenario="beat", subset=subset, job=Path(f"{subset}_{seed}"))
             for subset in (0.1, 0.01) for seed in (10, 20)]  # fmt: skip
    assert collect.name_cells(cells) == [
        ("beat", [Path("0.1_10"), Path("0.1_20")]),
        ("beat_1", [Path("0.01_10"), Path("0.01_20")]),
    ]
    with pytest.raises(UserError, match="no finished run"):
        collect.from_jobs(collect.name_cells([]))


@pytest.fixture
def pretrained(tmp_path, prepared):
    """A run with all that a trainer leaves behind, from weights of a run on 12 patients."""
    data = tmp_path / "jobs" / "beat"
    parts = {"train": {"patients": 10}, "validation": {"patients": 2}}
    put_weights(data / "weights.safetensors", dataset="mitdb", task="beat")
    put_weights(data / "epoch_01" / "model.safetensors", dataset="mitdb", task="beat")
    write_json(data / "manifest.json", parts)
    write_json(data / "args.json", {"arguments": {"epochs": None}})
    (data / "history.csv").write_text("epoch,loss\n1,1\n2,1\n")
    job = tmp_path / "jobs" / "beat_10"
    make_run(job, 10)
    manifest = read_json(prepared / "p_manifest.json")
    put_weights(job / "best_model.safetensors", manifest_sha256=digest(manifest), dataset="own")
    (job / "timing.csv").write_text("epoch,seconds\n1,2.5\n2,3.5\n")
    arguments = {"seed": 10, "subset": 0.5, "epochs": 9, "train": str(prepared / "p_train.npz"),
                 "weights_file": "jobs/beat/weights.safetensors"}  # fmt: skip
    environment = {"hardware": "cpu, fp32", "command": "python -m x", "commit": "12e45+",
                   "torch": "2"}  # fmt: skip
    write_json(job / "args.json", {"arguments": arguments, "environment": environment})
    write_json(job / "scores.json", {"epoch": 2, "temperature": 1.5, "train": {"records": 24}})
    return job


def test_a_run_says_where_it_comes_from(pretrained, tmp_path):
    results = collect.from_jobs([("beat", [pretrained])])
    collect.save(results, tmp_path / "saved")
    again = collect.load(tmp_path / "saved")
    pd.testing.assert_frame_equal(again.predictions, results.predictions, atol=1e-7)
    for runs in (results.runs, again.runs):
        row = runs.iloc[0].dropna().to_dict()
        assert row.pop("manifest_sha256") and row.pop("pretraining_manifest_sha256") == "0" * 64
        assert row == {
            "scenario": "beat", "seed": 10, "architecture": "resnet18", "objective": "beat",
            "pretraining_dataset": "mitdb", "pretraining_patients": 12,
            "pretraining_fraction": 0.25, "subset": 0.5, "records": 24, "chosen_epoch": 2,
            "epochs": 2, "max_epochs": 9, "wall_seconds": 6.0, "temperature": 1.5,
            "dataset": "own", "labels": "zip", "device": "cpu, fp32", "command": "python -m x",
            "commit": "12e45+", "versions": "torch 2",
        }  # fmt: skip


def test_a_checkpoint_of_a_pass_has_seen_a_part(pretrained):
    saved = read_json(pretrained / "args.json")
    saved["arguments"]["weights_file"] = "jobs/beat/epoch_01/model.safetensors"
    write_json(pretrained / "args.json", saved)
    row = provenance.read(pretrained)
    assert (row["pretraining_patients"], row["pretraining_fraction"]) == (6, 0.125)


def test_labels_of_another_set_are_not_believed(pretrained):
    put_weights(pretrained / "best_model.safetensors")
    assert provenance.read(pretrained)["labels"] is None


def test_saving_keeps_other_scenarios_and_old_results_load(pretrained, runs, tmp_path):
    flags, _ = runs
    saved = tmp_path / "saved"
    collect.save(collect.from_jobs([compare.scenario(flag) for flag in flags]), saved)
    collect.save(collect.from_jobs([("beat", [pretrained])]), saved)
    loaded = collect.load(saved).runs.set_index(["scenario", "seed"])
    assert loaded["objective"].tolist() == ["random", "random", "beat"]
    assert loaded.loc[("beat", 10), "epochs"] == 2
    (saved / "runs.csv").unlink()
    without = collect.load(saved)
    assert without.runs.drop(columns=collect.RUN).isna().all(axis=None)
    assert scenarios.pairs(scenarios.describe(without.runs)) == [("random", "beat")]
