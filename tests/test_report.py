"""Tables and figures of finished runs."""

import gzip
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from report import claims, collect, compare, figures, provenance, scenarios, tables
from report import stats as statistics
from study import description, plan
from tests.helpers import ROOT, command, contents, put_weights
from utils import metrics
from utils.cli import UserError
from utils.files import digest, read_json, write_json
from utils.metrics import write_predictions

CLASSES = ["A", "N", "O", "~"]
VALIDATED = "val_predictions.csv"


def make_run(folder, seed, records=40, name="test_predictions.csv", labels=0):
    rng = np.random.default_rng(seed)
    true = np.random.default_rng(labels).integers(4, size=records)
    prob = rng.dirichlet(np.ones(4), records)
    names = [f"A{number:05d}" for number in range(records)]
    folder.mkdir(parents=True, exist_ok=True)
    write_predictions(folder / name, names, CLASSES, np.eye(4)[true], prob)
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


def test_pretraining_is_not_compared(tmp_path):
    make_run(tmp_path / "beat", 10)
    (tmp_path / "beat" / "args.json").write_text('{"arguments": {"seed": 10, "task": "beat"}}')
    with pytest.raises(UserError, match="holds a run of pretraining"):
        collect.from_jobs([("beat", [tmp_path / "beat"])])


def test_runs_that_cannot_be_compared(tmp_path):
    make_run(tmp_path / "one", 10)
    make_run(tmp_path / "again", 10)
    make_run(tmp_path / "other", 20, records=41)
    make_run(tmp_path / "labels", 20, labels=1)
    for name, words in {
        "again": "two runs with seed 10",
        "other": "other recordings or labels",
        "labels": "other recordings or labels",
    }.items():
        with pytest.raises(UserError, match=words):
            collect.from_jobs([("beat", [tmp_path / "one", tmp_path / name])])


def test_recordings_prepared_in_other_ways_cannot_be_compared(runs, monkeypatch):
    flags = [compare.scenario(flag) for flag in runs[0]]
    known = dict.fromkeys(provenance.COLUMNS)
    monkeypatch.setattr(
        provenance, "read", lambda job, _: known | {"manifest_sha256": job.name[:4]}
    )
    with pytest.raises(UserError, match="prepared in different ways"):
        collect.from_jobs(flags)


@pytest.fixture
def validated(tmp_path):
    """Jobs of two scenarios without a test set; each seed has its own recordings."""
    for name in ("beat", "ema"):
        for seed in (10, 20):
            make_run(tmp_path / f"{name}{seed}", seed, records=20 + seed, name=VALIDATED)
    return [(name, [tmp_path / f"{name}{seed}" for seed in (10, 20)]) for name in ("beat", "ema")]


def test_runs_without_a_test_set_are_compared_by_validation(validated, tmp_path):
    flags = [f"{name}={','.join(map(str, jobs))}" for name, jobs in validated]
    saved, figure = tmp_path / "saved", tmp_path / "f.png"
    first = command(compare.main, "--jobs", *flags, "--save", saved, "--figure", figure)
    assert first.code == 0 and first.out.startswith("not every run has a test set")
    assert {path.name for path in saved.iterdir()} == {
        "beat_history.csv.gz", "beat_validation.csv.gz", "ema_history.csv.gz",
        "ema_validation.csv.gz", "runs.csv",
    }  # fmt: skip
    again = command(compare.main, "--results", saved)
    assert again.code == 0 and again.out in first.out
    assert collect.load_all(tmp_path)["saved"].part == collect.VALIDATION
    # One that was tested, too, does not change what is compared.
    make_run(validated[0][1][0], 10, records=30, name="test_predictions.csv")
    command(compare.main, "--jobs", *flags, "--save", tmp_path / "mixed")
    assert contents(tmp_path / "mixed") == contents(saved)


def test_validation_that_cannot_be_compared(validated, runs, tmp_path):
    make_run(tmp_path / "other", 10, records=31, name=VALIDATED)
    with pytest.raises(UserError, match=r"other, seed 10, and beat, seed 10, have other rec"):
        collect.from_jobs([*validated, ("other", [tmp_path / "other"])])
    (tmp_path / "ema10" / VALIDATED).unlink()
    with pytest.raises(UserError, match=r"ema10 has no val_predictions\.csv: .* --test"):
        collect.from_jobs(validated)
    command(compare.main, "--jobs", *runs[0], "--save", tmp_path / "saved")
    with pytest.raises(UserError, match="choose another folder"):
        collect.save(collect.from_jobs(validated[:1]), tmp_path / "saved")


def test_results_are_added_only_where_they_can_be_compared(runs, tmp_path):
    command(compare.main, "--jobs", *runs[0], "--save", tmp_path / "saved")
    make_run(tmp_path / "other", 10, records=41)
    flags = ["--jobs", f"other={tmp_path / 'other'}", "--save", tmp_path / "saved"]
    command(compare.main, *flags).refused("have other recordings or labels in their test sets")
    assert command(compare.main, "--results", tmp_path / "saved").code == 0


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("beat_history.csv.gz", None, "lacks files"),
        ("beat_predictions.csv.gz", None, "lacks files"),
        ("beat_validation.csv.gz", b"", "keep them apart"),
        ("runs.csv", b"a,b\n1,2\n", "runs.csv is not a table of runs"),
        ("runs.csv", b"scenario,seed\nbeat,30\nbeat,30\n", "runs.csv is not a table of runs"),
        ("runs.csv", b"scenario,seed\nbeat,many\n", "runs.csv is not a table of runs"),
    ],
)
def test_folders_of_results_that_are_not_whole(runs, tmp_path, name, content, words):
    command(compare.main, "--jobs", *runs[0], "--save", tmp_path / "saved")
    path = tmp_path / "saved" / name
    path.write_bytes(content) if content is not None else path.unlink()
    command(compare.main, "--results", tmp_path / "saved").refused(words)


def test_flags_that_are_not_at_their_defaults():
    earlier = {"seed": 10, "lr": 0.001, "arch": None, "preset": None, "epochs": 20}
    assert provenance.flags(earlier) == "none" and scenarios.flags("none") == []
    own = {"lr": 0.01, "augment": True, "ema": 0.999, "mixup": 0.0, "val_size": 0.0625, "tta": 4}
    words = provenance.flags(earlier | own | {"preset": "recommended", "compile": True})
    assert words == "--lr 0.01, --augment, --ema 0.999, --tta 4"
    assert scenarios.flags(words) == ["--lr 0.01", "--augment", "--ema 0.999", "--tta 4"]


def cells_of(**described):
    """Scenarios, from (architecture, objective, records, flags, stages) by name, the last ones None
    where they are not given."""
    columns = ["architecture", "objective", "records", "flags", "stages"]
    described = {name: (*cell, *[None] * (5 - len(cell))) for name, cell in described.items()}
    runs = pd.DataFrame.from_dict(described, orient="index", columns=columns)
    runs = runs.rename_axis("scenario").reset_index().assign(seed=10)
    return scenarios.describe(runs.reindex(columns=[*collect.RUN, *provenance.COLUMNS]))


def test_each_pretrained_scenario_is_compared_with_the_random_one_like_it():
    cells = cells_of(
        random=("resnet18", "random", 639, None), random_34=("resnet34", "random", 639, None),
        random_2d=("resnet18_2d", "random", 639, None), random_1=("resnet18", "random", 64, None),
        random_ema=("resnet18", "random", 639, "--ema 0.9"), beat=("resnet18", "beat", 639, None),
        hr=("resnet18", "hr", 639, None), beat_34=("resnet34", "beat", 639, None),
        beat_2d=("resnet18_2d", "beat", 639, None), beat_1=("resnet18", "beat", 64, None),
        beat_ema=("resnet18", "beat", 639, "--ema 0.9"), hr_50=("resnet50", "hr", 639, None),
    )  # fmt: skip
    assert sorted(scenarios.pairs(cells)) == [
        ("random", "beat"), ("random", "hr"), ("random_1", "beat_1"), ("random_2d", "beat_2d"),
        ("random_34", "beat_34"), ("random_ema", "beat_ema"),
    ]  # fmt: skip
    assert scenarios.variants(cells) == [("beat", "beat_ema"), ("random", "random_ema")]


def test_variants_have_the_flags_of_their_baseline_and_others():
    cells = cells_of(
        both=("resnet18", "beat", 639, "--lr 0.01, --ema 0.9, --augment"),
        base=("resnet18", "beat", 639, "--batch-size 128"),  # the replication's
        less=("resnet18", "beat", 64, "--batch-size 128, --ema 0.9"),
        other=("resnet18", "beat", 639, "--ema 0.9"),
        more=("resnet18", "beat", 639, "--batch-size 128, --ema 0.9"),
        cut=("resnet18", "beat", 639, "--batch-size 128, --augment", 1),
    )
    assert scenarios.variants(cells) == [("base", "more")]
    alone = cells.drop(index=["base", "cut"])  # nothing is a baseline for being the least
    assert scenarios.variants(alone) == []


def test_flags_that_nobody_recorded_are_taken_for_none():
    cells = cells_of(
        random=("resnet18", "random", 639, None), beat=("resnet18", "beat", 639, "none"),
        ema=("resnet18", "beat", 639, "--ema 0.9"), old=("resnet18", "hr", 639, None),
        old_ema=("resnet18", "hr", 639, "--ema 0.9"),
    )  # fmt: skip
    assert scenarios.pairs(cells) == [("random", "beat"), ("random", "old")]
    assert scenarios.variants(cells) == [("beat", "ema"), ("old", "old_ema")]


def test_a_cut_network_is_compared_with_none_that_is_whole():
    cells = cells_of(
        random=("resnet18", "random", 639, "none", 1), beat=("resnet18", "beat", 639, "none"),
        beat_cut=("resnet18", "beat", 639, "none", 1),
    )  # fmt: skip
    assert scenarios.pairs(cells) == [("random", "beat_cut")]
    assert scenarios.network(cells.loc["random"]) == "resnet18, stages 1"


def test_saved_runs_that_are_not_alike_are_described_as_such():
    """The first one's values are not filled up with those of others."""
    runs = pd.DataFrame({"scenario": ["a", "a", "b", "b"], "seed": [10, 20, 10, 20],
                         "flags": [None, "--augment", "--ema 0.9", "--ema 0.9"],
                         "labels": [None, "zip", "zip", None]})  # fmt: skip
    cells = scenarios.describe(runs.reindex(columns=[*collect.RUN, *provenance.COLUMNS]))
    assert cells["flags"].to_dict() == {"a": "not recorded; --augment", "b": "--ema 0.9"}
    assert pd.isna(cells.loc["a", "labels"]) and cells.loc["b", "labels"] == "zip"
    assert cells["seeds"].tolist() == [[10, 20]] * 2


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
        (["--results", ".", "--folder", "x"], "--folder: only for --study"),
        (["--study", "studies/nowhere.toml"], "nowhere.toml"),
        (["--study", ROOT / "studies/demo.toml", "--set", "x=1"], "unknown key 'x'"),
        (["--study", ROOT / "studies/demo.toml", "--folder", "no/runs"], "no/runs: none of the"),
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
    about = {"dataset": "mitdb", "task": "beat", "manifest_sha256": digest(parts)}
    put_weights(data / "weights.safetensors", **about)
    put_weights(data / "epoch_01" / "model.safetensors", **about)
    write_json(data / "manifest.json", parts)
    arguments = {"epochs": 2, "steps_per_epoch": 10, "batch_size": 2, "samples_per_patient": 4}
    write_json(data / "args.json", {"arguments": arguments})
    (data / "history.csv").write_text("epoch,loss\n1,1\n2,1\n")
    job = tmp_path / "jobs" / "beat_10"
    make_run(job, 10)
    manifest = read_json(prepared / "p_manifest.json")
    put_weights(job / "best_model.safetensors", manifest_sha256=digest(manifest), dataset="own")
    (job / "timing.csv").write_text("epoch,seconds\n1,2.5\n2,3.5\n")
    arguments = {"seed": 10, "subset": 0.5, "epochs": 9, "ema": 0.9,
                 "train": str(prepared / "p_train.npz"),
                 "weights_file": "jobs/beat/weights.safetensors"}  # fmt: skip
    environment = {"hardware": "cpu, fp32", "command": "python -m x", "commit": "12e45+",
                   "torch": "2"}  # fmt: skip
    write_json(job / "args.json", {"arguments": arguments, "environment": environment})
    write_json(job / "scores.json", {"epoch": 2, "temperature": 1.5, "train": {"records": 24}})
    return job


def test_a_run_says_where_it_comes_from(pretrained, tmp_path):
    results = collect.from_jobs([("beat", [pretrained])], study=Path("studies/own.toml"))
    collect.save(results, tmp_path / "saved")
    again = collect.load(tmp_path / "saved")
    pd.testing.assert_frame_equal(again.predictions, results.predictions, atol=1e-7)
    for runs in (results.runs, again.runs):
        row = runs.iloc[0].dropna().to_dict()
        assert row.pop("manifest_sha256") and row.pop("pretraining_manifest_sha256")
        assert row == {
            "scenario": "beat", "seed": 10, "architecture": "resnet18", "stages": 1,
            "objective": "beat", "study": "studies/own.toml",
            "pretraining_dataset": "mitdb", "pretraining_patients": 12,
            "pretraining_fraction": 0.25, "subset": 0.5, "records": 24, "chosen_epoch": 2,
            "epochs": 2, "max_epochs": 9, "wall_seconds": 6.0, "flags": "--ema 0.9",
            "temperature": 1.5,
            "dataset": "own", "labels": "zip", "device": "cpu, fp32", "command": "python -m x",
            "commit": "12e45+", "versions": "torch 2",
        }  # fmt: skip


@pytest.mark.parametrize(
    ("weights", "changes", "seen"),
    [
        ("epoch_01/model", {}, 6),  # of 10 + 2: half of a pass
        ("epoch_01/model", {"epochs": None}, 6),
        ("epoch_01/model", {"steps_per_epoch": None}, 12),  # an epoch is a pass
        ("epoch_01/model", {"steps_per_epoch": 2}, 1),
        ("weights", {"steps_per_epoch": 5}, 6),  # whichever epoch was chosen
    ],
)
def test_weights_have_seen_the_patients_up_to_their_epoch(pretrained, weights, changes, seen):
    saved, run = read_json(pretrained / "args.json"), pretrained.parent / "beat"
    saved["arguments"]["weights_file"] = f"jobs/beat/{weights}.safetensors"
    write_json(pretrained / "args.json", saved)
    arguments = read_json(run / "args.json")["arguments"] | changes
    write_json(run / "args.json", {"arguments": arguments})
    row = provenance.read(pretrained)
    assert row["pretraining_patients"] == seen
    assert row["pretraining_fraction"] == pytest.approx(seen / 48, abs=0.005)


def test_nobody_knows_what_weights_without_their_run_have_seen(pretrained):
    run = pretrained.parent / "beat"
    write_json(run / "manifest.json", {"train": {"patients": 1}, "validation": {"patients": 0}})
    other = provenance.read(pretrained)  # a manifest of other weights
    (run / "manifest.json").unlink()
    for row in (other, provenance.read(pretrained)):
        assert row["objective"] == "beat" and row["pretraining_fraction"] is None


def test_a_scenario_is_of_runs_that_are_alike(pretrained, tmp_path):
    other = tmp_path / "jobs" / "beat_20"
    shutil.copytree(pretrained, other)
    for changes, words in (
        ({"ema": 0.0}, "flags --ema 0.9 and with none; give"),
        ({"epochs": 99}, "max_epochs 9 and with 99"),
        ({"subset": 1.0}, "subset 0.5 and with 1.0"),
        ({"weights_file": None}, "objective beat and with random"),
    ):
        saved = read_json(pretrained / "args.json")
        saved["arguments"] |= {"seed": 20} | changes
        write_json(other / "args.json", saved)
        flag = f"beat={pretrained},{other}"
        command(compare.main, "--jobs", flag).refused(f"beat holds runs with {words}")
        both = ["--jobs", f"beat={pretrained}", f"other={other}"]
        assert command(compare.main, *both).code == 0


def test_checkpoints_of_one_pass_in_a_study(tmp_path):
    """As team1.toml makes them: weights outside of their run, which are of one epoch of it."""
    folder, names = tmp_path / "jobs", ["random", "beat1", "beat10", "beat20", "beat100"]
    words = ["--study", ROOT / "studies/team1.toml", "--folder", folder, "--set",
             f"cells=[{{scenarios={names},seeds=[10]}}]"]  # fmt: skip
    study = description.load(words[1], words[5:], folder)
    parts = {"train": {"patients": 10450}, "validation": {"patients": 550}}
    arguments = {"epochs": 82, "steps_per_epoch": 1024, "batch_size": 512,
                 "samples_per_patient": 4096}  # fmt: skip
    write_json(folder / "beat" / "manifest.json", parts)
    write_json(folder / "beat" / "args.json", {"arguments": arguments})
    for cell in study.cells:
        job = plan.cell_job(study, cell)
        make_run(job.job_dir, 10)
        weights = job.flags.get("weights-file")
        saved = {"seed": 10, "weights_file": weights, "batch_size": 128}
        environment = {"command": job.command()}
        write_json(job.job_dir / "args.json", {"arguments": saved, "environment": environment})
        if weights:
            put_weights(Path(weights), dataset="icentia11k", manifest_sha256=digest(parts))
    assert command(compare.main, *words, "--save", tmp_path / "saved").code == 0
    results = collect.load(tmp_path / "saved")
    cells = scenarios.describe(results.runs)
    assert cells.loc[names[1:], "fraction"].tolist() == [0.0122, 0.098, 0.196, 1]
    assert figures.fractions(results, tables.published())
    found = claims.table({"team1": results}).set_index("study")
    for name in names[1:]:
        part = "a part" in found.loc[f"team1: {name} − random", "published"]
        assert part == (name != "beat100")


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
