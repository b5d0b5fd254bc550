"""Results of finished runs: collected from job directories, saved, read again and compared."""

import gzip
import shutil

import numpy as np
import pandas as pd
import pytest

from report import collect, compare, stats
from tests.helpers import ROOT, command, contents, put_weights
from utils import metrics
from utils.cli import UserError
from utils.files import digest, read_json, write_json
from utils.metrics import write_predictions
from utils.run import LIBRARIES

CLASSES = ["A", "N", "O", "~"]
VALIDATED = "val_predictions.csv"


def make_run(folder, seed, records=40, name="test_predictions.csv", labels=0):
    """A job directory with all that a run of random weights leaves behind; returns its scores."""
    rng = np.random.default_rng(seed)
    true = np.random.default_rng(labels).integers(4, size=records)
    prob = rng.dirichlet(np.ones(4), records)
    names = [f"A{number:05d}" for number in range(records)]
    put_weights(folder / "best_model.safetensors", dataset="own")
    write_predictions(folder / name, names, CLASSES, np.eye(4)[true], prob)
    table = pd.DataFrame({"epoch": [1, 2], "macro_f1": rng.random(2), "seconds": [2.5, 3.5]})
    table[["epoch", "macro_f1"]].to_csv(folder / "history.csv", index=False)
    table[["epoch", "seconds"]].to_csv(folder / "timing.csv", index=False)
    arguments = {"seed": seed, "train": "data/p_train.npz", "subset": 0.5, "epochs": 9, "ema": 0.9,
                 "weights_file": None}  # fmt: skip
    environment = {"hardware": "cpu, fp32", "command": "python -m x", "commit": "12e45+"}
    environment |= dict.fromkeys(["python", *LIBRARIES], "2")
    write_json(folder / "args.json", {"arguments": arguments, "environment": environment})
    scores = {"epoch": 2, "temperature": 1.5, "train": {"records": 24}}
    write_json(folder / "scores.json", scores)
    return metrics.scores(true, prob, CLASSES)


def set_arguments(job, **changes):
    saved = read_json(job / "args.json")
    saved["arguments"] |= changes
    write_json(job / "args.json", saved)


@pytest.fixture
def runs(tmp_path):
    """Flags for --jobs, and the scores of each run."""
    scores = {(name, seed): make_run(tmp_path / f"{name}{seed}", seed)
              for name, seed in (("random", 10), ("random", 20), ("beat", 30))}  # fmt: skip
    return [f"random={tmp_path}/random10,{tmp_path}/random20", f"beat={tmp_path}/beat30"], scores


@pytest.fixture
def validated(tmp_path):
    """Jobs of two scenarios without a test set; each seed has its own recordings."""
    jobs = {name: [tmp_path / f"{name}{seed}" for seed in (10, 20)] for name in ("beat", "ema")}
    for job in (job for folders in jobs.values() for job in folders):
        seed = int(job.name[-2:])
        make_run(job, seed, records=20 + seed, name=VALIDATED)
    return list(jobs.items())


def test_scores_of_each_run_are_recomputed(runs):
    flags, expected = runs
    results = collect.from_jobs([compare.scenario(flag) for flag in flags])
    for row in stats.score_runs(results.predictions).to_dict("records"):
        run = expected[row["scenario"], row["seed"]]
        scores = [row[name] for name in ("macro F1", "CinC-3", "F1 ~")]
        assert scores == pytest.approx([run["macro_f1"], run["cinc3"], run["f1"]["~"]], abs=1e-6)


def test_the_readme_s_table():
    result = command(compare.main, "--results", ROOT / "report/results/mitdb_subset10")
    rows = [line.split()[:5] for line in result.out.splitlines()[1:]]
    assert rows == [["random", "3", "0.544", "±", "0.017"], ["beat", "3", "0.651", "±", "0.027"]]


def test_saved_results_give_the_same_table(runs, tmp_path):
    flags, _ = runs
    saved, figure = tmp_path / "saved", tmp_path / "f.png"
    first = command(compare.main, "--jobs", *flags, "--save", saved, "--figure", figure)
    assert first.code == 0 and figure.read_bytes()[:4] == b"\x89PNG", first
    again = command(compare.main, "--results", saved)
    assert again.code == 0 and first.out.startswith(again.out)
    before = contents(saved)
    command(compare.main, "--jobs", *flags, "--save", saved)
    assert contents(saved) == before
    make_run(tmp_path / "hr", 10)  # Others are added if they can be compared.
    command(compare.main, "--jobs", f"hr={tmp_path / 'hr'}", "--save", saved)
    before, added = contents(saved), collect.load(saved).runs
    assert added["scenario"].tolist() == ["random", "random", "beat", "hr"]
    make_run(tmp_path / "other", 10, records=41)
    flags = ["--jobs", f"other={tmp_path / 'other'}", "--save", saved]
    command(compare.main, *flags).refused("other recordings, labels or classes in the test set")
    assert contents(saved) == before


def test_runs_that_cannot_be_compared(runs, validated, tmp_path):
    def refused(words, *scenarios):
        with pytest.raises(UserError, match=words):
            collect.from_jobs(scenarios)

    one, again, other, val = (tmp_path / name for name in ("one", "again", "other", "val"))
    make_run(one, 10)
    make_run(again, 10)
    refused("have equal seeds", ("beat", [one, again]))
    for changes in ({"records": 41}, {"labels": 1}):
        make_run(other, 20, **changes)
        refused("other recordings, labels", ("beat", [one, other]))
    put_weights(one / "best_model.safetensors", manifest_sha256="1" * 64)
    refused("prepared in different ways", ("a", [one]), ("b", [again]))
    set_arguments(one, task="beat")
    refused("holds a pretraining run", ("beat", [one]))
    make_run(val, 10, records=31, name=VALIDATED)
    refused(r"val, seed 10: other recordings", *validated, ("val", [val]))
    command(compare.main, "--jobs", *runs[0], "--save", tmp_path / "saved")
    with pytest.raises(UserError, match="choose another folder"):
        collect.save(collect.from_jobs(validated[:1]), tmp_path / "saved")
    (tmp_path / "ema10" / VALIDATED).unlink()
    refused(r"ema10/val_predictions\.csv", *validated)


def test_runs_without_a_test_set_are_compared_on_validation(validated, tmp_path):
    flags = [f"{name}={','.join(map(str, jobs))}" for name, jobs in validated]
    saved, figure = tmp_path / "saved", tmp_path / "f.png"
    first = command(compare.main, "--jobs", *flags, "--save", saved, "--figure", figure)
    assert first.code == 0 and first.out.startswith("not every run has a test set")
    again = command(compare.main, "--results", saved)
    assert again.code == 0 and again.out in first.out
    assert collect.load_all(tmp_path)["saved"].part == collect.VALIDATION
    # A test set of one of the runs does not change what is compared.
    make_run(validated[0][1][0], 10, records=30, name="test_predictions.csv")
    command(compare.main, "--jobs", *flags, "--save", tmp_path / "mixed")
    assert contents(tmp_path / "mixed") == contents(saved)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("test_predictions.csv.gz", None, "val_predictions.csv.gz"),
        ("history.csv.gz", b"scenario,epoch,f1\n", "history.csv.gz is damaged"),
        ("history.csv.gz", b"scenario,seed,epoch,macro_f1\nbeat,30,1,0.5\n", "are of other runs"),
        ("test_predictions.csv.gz", b"scenario,seed,a\nbeat,30,1\n", "no table of predictions"),
        ("runs.csv", b"scenario,seed,architecture,flags\nbeat,30,,\nbeat,30,,\n", "of other runs"),
        ("runs.csv", b"scenario,seed,architecture,flags\nbeat,many,,\n", "runs.csv is damaged"),
    ],
)
def test_damaged_results_are_one_line(runs, tmp_path, name, content, words):
    command(compare.main, "--jobs", *runs[0], "--save", tmp_path / "saved")
    path = tmp_path / "saved" / name
    path.unlink()
    if content is not None:
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    command(compare.main, "--results", tmp_path / "saved").refused(words)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(b"a,b\n" * 99)[:-9])
        command(compare.main, "--results", tmp_path / "saved").refused(f"{name} is damaged")


def test_damaged_runs_are_one_line(tmp_path):
    make_run(tmp_path / "job", 10)
    path = tmp_path / "job/test_predictions.csv"
    table = pd.read_csv(path)
    for column, value in (("prob_A", "nan"), ("true_A", 7), ("true_A", "9" * 400)):
        table.astype({column: object}).assign(**{column: value}).to_csv(path, index=False)
        result = command(compare.main, "--jobs", f"a={tmp_path / 'job'}")
        result.refused("is not a table of predictions")
    for content in ("1", "{}", '{"arguments": {"seed": null}}'):
        (tmp_path / "job/args.json").write_text(content)
        command(compare.main, "--jobs", f"a={tmp_path / 'job'}").refused("damaged files of a run")


def test_bad_input_is_one_line():
    for words, *flags in (("nowhere", "--jobs", "random=nowhere"), ("name=fol", "--jobs", "random"),
                          (".png", "--results", ".", "--figure", "f.xyz")):  # fmt: skip
        command(compare.main, *flags).refused(words)


def test_flags_that_are_not_at_their_defaults():
    earlier = {"seed": 10, "lr": 0.001, "arch": None, "preset": None, "epochs": 20}
    assert collect.changed_flags(earlier) == "none" and collect.split_flags("none") == []
    changed = {"lr": 0.01, "augment": True, "mixup": 0.0, "val_size": 0.0625, "compile": True}
    words = collect.changed_flags(earlier | changed | {"preset": "paper"})
    assert words == "--lr 0.01, --augment"
    assert collect.split_flags(words) == ["--lr 0.01", "--augment"]


def cells_of(**described):
    """`describe` of scenarios given as (architecture, objective, records, flags[, stages])."""
    columns = ["architecture", "objective", "records", "flags", "stages"]
    described = {name: (*cell, *[None] * (5 - len(cell))) for name, cell in described.items()}
    runs = pd.DataFrame.from_dict(described, orient="index", columns=columns)
    runs = runs.rename_axis("scenario").reset_index().assign(seed=10, max_epochs=20)
    empty = ["spectrogram", "pretraining_manifest_sha256", "pretraining_fraction"]
    return collect.describe(runs.reindex(columns=[*runs, *empty]))


def test_each_pretrained_scenario_is_compared_with_the_random_one_like_it():
    cells = cells_of(
        random=("resnet18", "random", 639, "none"),
        random_34=("resnet34", "random", 639, "none"),
        random_2d=("resnet18_2d", "random", 639, "none"),
        beat=("resnet18", "beat", 639, "none"),
        random_ema=("resnet18", "random", 639, "--ema 0.9"),
        hr=("resnet18", "hr", 639, "none"),
        random_1=("resnet18", "random", 64, "none"),
        beat_34=("resnet34", "beat", 639, "none"),
        beat_2d=("resnet18_2d", "beat", 639, "none"),
        beat_1=("resnet18", "beat", 64, "none"),
        beat_ema=("resnet18", "beat", 639, "--ema 0.9"),
        hr_50=("resnet50", "hr", 639, "none"),
        cut=("resnet18", "beat", 639, "none", 1),
        random_cut=("resnet18", "random", 639, "none", 1),
    )
    assert sorted(collect.variant_pairs(cells)) == [("beat", "beat_ema"), ("random", "random_ema")]
    assert sorted(collect.pretrained_pairs(cells)) == [
        ("random", "beat"), ("random", "hr"), ("random_1", "beat_1"), ("random_2d", "beat_2d"),
        ("random_34", "beat_34"), ("random_cut", "cut"), ("random_ema", "beat_ema"),
    ]  # fmt: skip
    assert set(cells.index[cells["network"] == "2-D"]) == {"random_2d", "beat_2d"}
    cells = cells_of(  # variants have the flags of their baseline and others
        both=("resnet18", "beat", 639, "--lr 0.01, --ema 0.9, --augment"),
        base=("resnet18", "beat", 639, "--batch-size 128"),
        less=("resnet18", "beat", 64, "--batch-size 128, --ema 0.9"),
        other=("resnet18", "beat", 639, "--ema 0.9"),
        more=("resnet18", "beat", 639, "--batch-size 128, --ema 0.9"),
        cut=("resnet18", "beat", 639, "--batch-size 128, --augment", 1),
    )
    assert collect.variant_pairs(cells) == [("base", "more")]


@pytest.fixture
def pretrained(tmp_path, prepared):
    """A run from weights of a run on 12 patients."""
    data = tmp_path / "jobs" / "beat"
    parts = {"train": {"patients": 10}, "validation": {"patients": 2}}
    about = {"dataset": "mitdb", "task": "beat", "manifest_sha256": digest(parts)}
    for name in ("beat/weights", "beat/epoch_01/model", "beat_epoch01"):
        put_weights(data.parent / f"{name}.safetensors", **about)
    write_json(data / "manifest.json", parts)
    arguments = {"epochs": 2, "steps_per_epoch": 10, "batch_size": 2, "samples_per_patient": 4}
    write_json(data / "args.json", {"arguments": arguments})
    (data / "history.csv").write_text("epoch,loss\n1,1\n2,1\n")
    job = tmp_path / "jobs" / "beat_10"
    make_run(job, 10)
    manifest = read_json(prepared / "p_manifest.json")
    put_weights(job / "best_model.safetensors", manifest_sha256=digest(manifest), dataset="own")
    start = {"weights_file": "jobs/beat/weights.safetensors"}
    set_arguments(job, train=str(prepared / "p_train.npz"), **start)
    return job


def test_provenance_of_a_run(pretrained, tmp_path):
    results = collect.from_jobs([("beat", [pretrained])])
    collect.save(results, tmp_path / "saved")
    again = collect.load(tmp_path / "saved")
    pd.testing.assert_frame_equal(
        again.predictions, results.predictions, atol=1e-7, check_dtype=False
    )
    for runs in (results.runs, again.runs):
        row = runs.iloc[0].dropna().to_dict()
        assert row.pop("manifest_sha256") and row.pop("pretraining_manifest_sha256")
        assert row.pop("versions").startswith("python 2, torch 2, numpy 2") and row == {
            "scenario": "beat", "seed": 10, "architecture": "resnet18", "stages": 1,
            "objective": "beat", "pretraining_dataset": "mitdb", "pretraining_patients": 12,
            "pretraining_fraction": 0.25, "subset": 0.5, "records": 24, "chosen_epoch": 2,
            "epochs": 2, "max_epochs": 9, "wall_seconds": 6.0, "flags": "--ema 0.9",
            "temperature": 1.5, "dataset": "own", "labels": "zip", "device": "cpu, fp32",
            "command": "python -m x", "commit": "12e45+",
        }  # fmt: skip
    put_weights(pretrained / "best_model.safetensors")  # of another prepared set
    assert collect.read_run(pretrained)["labels"] is None
    set_arguments(pretrained, weights_file="gone.safetensors")
    assert collect.read_run(pretrained)["objective"] is None


def test_patients_that_weights_have_seen_up_to_their_epoch(pretrained):
    run = pretrained.parent / "beat"
    for weights, steps, seen in (
        ("beat/epoch_01/model", 10, 6),  # of 10 + 2: half of a pass
        ("beat_epoch01", 10, 6),
        ("beat/epoch_01/model", None, 12),  # an epoch is a pass
        ("beat/epoch_01/model", 2, 1),
        ("beat/weights", 5, 6),  # whichever epoch was chosen
    ):
        set_arguments(pretrained, weights_file=f"jobs/{weights}.safetensors")
        set_arguments(run, steps_per_epoch=steps)
        row = collect.read_run(pretrained)
        assert row["pretraining_patients"] == seen
        assert row["pretraining_fraction"] == pytest.approx(seen / 48)
    parts = {"train": {"patients": 1}, "validation": {"patients": 0}}
    write_json(run / "manifest.json", parts)  # of other weights
    row = collect.read_run(pretrained)
    assert row["objective"] == "beat" and row["pretraining_fraction"] is None


def test_runs_of_a_scenario_differ_in_their_seed_only(pretrained, tmp_path):
    other = shutil.copytree(pretrained, tmp_path / "jobs" / "beat_20")
    for changes, words in (({"ema": 0.0}, "flags"), ({"weights_file": None}, "objective"),
                           ({"epochs": 99, "subset": 1.0}, "subset, max_epochs")):  # fmt: skip
        shutil.copy(pretrained / "args.json", other)
        set_arguments(other, seed=20, **changes)
        result = command(compare.main, "--jobs", f"beat={pretrained},{other}")
        result.refused(f"the runs of beat differ in {words}")
    both = ["--jobs", f"beat={pretrained}", f"other={other}"]
    assert command(compare.main, *both).code == 0
