"""Tables, figures and the notebook of the report, on made-up and on saved results."""

import gzip
import json
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from finetuning.predict.external_validation import AF, MIXED, NOT_AF
from report import collect, figures, tables
from tests.helpers import ROOT
from utils.cli import UserError

CLASSES = ["A", "N", "O", "~"]
SAVED = ROOT / "report/results"
COLUMNS = ["stages", "spectrogram", "pretraining_dataset", "pretraining_patients",
           "pretraining_fraction", "pretraining_manifest_sha256", "subset", "chosen_epoch",
           "wall_seconds", "temperature", "manifest_sha256", "device", "command", "commit",
           "versions"]  # fmt: skip
FULL = dict.fromkeys(COLUMNS) | {"architecture": "resnet18", "records": 6395, "max_epochs": 200,
                                 "labels": "zip", "epochs": 2, "flags": "none"}  # fmt: skip
RANDOM = FULL | {"objective": "random"}
BEAT = FULL | {"objective": "beat", "pretraining_dataset": "icentia11k",
               "pretraining_fraction": 1.0, "skill": 1}  # fmt: skip
CELLS = {
    "random": RANDOM, "beat": BEAT, "beat_25": BEAT | {"pretraining_fraction": 0.25},
    "random_10": RANDOM | {"records": 639}, "beat_10": BEAT | {"records": 639},
    "random_2d": RANDOM | {"architecture": "resnet18_2d"},
}  # fmt: skip
VARIANTS = {"beat": BEAT, "augment": BEAT | {"flags": "--augment"},
            "both": BEAT | {"flags": "--ema 0.999, --augment"}}  # fmt: skip


def make_results(cells, seeds=(10, 20, 30), records=40):
    """Made-up runs; `cells` are rows of `runs.csv` by scenario, those with `skill` are right more
    often."""
    true = np.arange(records) % 4
    parts = ([], [], [])
    for (name, cell), seed in ((item, seed) for item in cells.items() for seed in seeds):
        prob = np.random.default_rng([seed, *name.encode()]).dirichlet(np.ones(4), records)
        prob[np.arange(records), true] += cell.get("skill", 0)
        run = {"scenario": name, "seed": seed}
        table = pd.DataFrame(run | {"record_name": np.arange(records).astype(str)})
        table[[f"true_{c}" for c in CLASSES]] = np.eye(4, dtype=int)[true]
        table[[f"prob_{c}" for c in CLASSES]] = prob / prob.sum(1, keepdims=True)
        history = pd.DataFrame(run | {"epoch": [1, 2], "macro_f1": [0.1, 0.2]})
        for part, value in zip(parts, (history, table, run | cell), strict=True):
            part.append(value)
    history, predictions, runs = parts
    return collect.Results(pd.concat(history), pd.concat(predictions), pd.DataFrame(runs))


def run_notebook(folder, monkeypatch):
    """What the cells display, by kind, with `folder` for report/results."""
    shown = {"HTML": [], "Image": [], "Markdown": []}
    display = SimpleNamespace(**{name: values.append for name, values in shown.items()})
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.chdir(ROOT)
    names = {"display": lambda _: None}
    notebook = json.loads((ROOT / "report/report.ipynb").read_text(encoding="utf-8"))
    for number, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] == "code":
            source = "".join(cell["source"]).replace('"report/results"', repr(str(folder)))
            exec(compile(source, f"cell {number}", "exec"), names)
    return shown


def test_notebook_on_nothing_and_on_small_results(tmp_path, monkeypatch):
    shown = run_notebook(tmp_path, monkeypatch)
    assert not shown["Image"] and len(shown["HTML"]) == 1  # published scores
    collect.save(make_results(CELLS), tmp_path / "study")
    varied = make_results(VARIANTS)._replace(part=collect.VALIDATION)
    collect.save(varied, tmp_path / "ablation")
    shown = run_notebook(tmp_path, monkeypatch)
    # Six figures of the study and one of the variants.
    assert len(shown["Image"]) == 7 and all(png[:4] == b"\x89PNG" for png in shown["Image"])
    # External validation (of four things), objectives, precisions and benchmarks have no results.
    assert shown["Markdown"].count("*not run*") == 7


def test_notebook_holds_the_saved_results():
    text = (ROOT / "report/report.ipynb").read_text(encoding="utf-8")
    saved = collect.load_all(SAVED)
    for value in tables.scores(saved)["macro F1"]:
        assert value in text, "results were added; run make report"
    assert "0.544 ± 0.017" in text and "0.651 ± 0.027" in text


def test_published_rows():
    about = ["source", "network", "objective", "pretraining_dataset", "pretraining_fraction"]
    rows = tables.published().set_index(about)
    assert len(rows) == 14 and rows["reference"].notna().all()
    paper = rows.loc[("paper", "1-D", "beat", "Icentia11k, frames of 2048", 1)]
    assert (paper["macro F1"], paper["F1 ~"]) == ("0.779 ± 0.014", "0.661 ± 0.040")
    last = rows.loc[("Team 1", "2-D", "beat", "Icentia11k, frames of 4096", 0.88)]
    assert (last["macro F1"], last["F1 A"], last["epochs"]) == (
        "0.765 ± 0.012", "0.774 ± 0.029", "56.2 ± 1.7")  # fmt: skip
    f1 = rows[["F1 N", "F1 A", "F1 O", "F1 ~", "macro F1"]].map(lambda text: float(text[:5]))
    assert (f1.iloc[:, :4].mean(axis=1) - f1["macro F1"]).abs().max() < 0.0015  # each is rounded
    assert (f1.iloc[:, :3].mean(axis=1) - rows["CinC-3"].astype(float)).abs().max() < 0.00051


def test_scores_beside_the_published_ones():
    table = tables.scores({"full": make_results(CELLS)})
    sources = ["paper"] * 4 + ["Team 1"] * 10 + ["here: full"] * len(CELLS)
    assert table["source"].tolist() == sources
    theirs, (ours,) = table.iloc[4], table[table["weights"] == "beat_25"].iloc
    assert theirs[["weights", "macro F1", "epochs"]].tolist() == [
        "random", "0.702 ± 0.030", "71.0 ± 5.6"]  # fmt: skip
    assert table.iloc[5]["protocol"] == (
        "beat, Icentia11k, frames of 4096, 1.0% of the patients, 6,395 labelled recordings,"
        " at most 200 epochs"
    )
    assert ours["protocol"].startswith("beat, icentia11k, 25.0% of the patients, 6,395 labelled")
    assert ours["95 %, seeds"].count("to") == 1 and ours["epochs"] == "2.0 ± 0.0"


def test_differences():
    table = tables.differences(make_results(CELLS))
    assert table["scenario"].tolist() == ["beat_10", "beat_25", "beat"]
    assert set(table["p, Holm"]) == {"too few seeds"}
    assert tables.differences(make_results({"beat": BEAT})).empty
    saved = tables.differences(collect.load(SAVED / "mitdb_subset10")).iloc[0]
    assert saved[["difference", "95 %, seeds", "95 %, recordings"]].tolist() == [
        "+0.107", "0.051 to 0.162", "0.083 to 0.129"]  # fmt: skip
    assert saved["by seed"] == "10: +0.108, 20: +0.084, 30: +0.128"


def test_ablation_by_hand():
    flat = np.full(7, 0.5)
    f1 = {("beat", 10): flat, ("beat", 20): flat + 0.1, ("augment", 10): flat + 0.02,
          ("augment", 20): flat + 0.08, ("both", 20): flat + 0.2,
          ("both", 10): [0.9, 0.9, 0.5, 0.6, 0.7, 0.8, 0.9]}  # fmt: skip
    history = pd.concat(
        pd.DataFrame({"scenario": name, "seed": seed, "epoch": range(1, 8), "macro_f1": values})
        for (name, seed), values in f1.items()
    )
    made = make_results(VARIANTS, (10, 20))._replace(history=history, part=collect.VALIDATION)
    table = tables.ablation(made).set_index(["macro F1 of", "scenario"])
    columns = ["minus", "changes", "by seed", "macro F1", "difference"]
    assert table.loc["last five epochs", columns].to_numpy().tolist() == [
        ["beat", "--augment", "10: +0.020, 20: -0.020", "0.550 ± 0.042 − 0.550 ± 0.071", "+0.000"],
        ["beat", "--ema 0.999, --augment", "10: +0.200, 20: +0.100",
         "0.700 ± 0.000 − 0.550 ± 0.071", "+0.150"],
    ]  # fmt: skip
    assert table.loc[("best epoch", "both"), "difference"] == "+0.250"
    assert ("predictions", "both") in table.index
    assert tables.ablation(make_results({"beat": BEAT, "hr": BEAT | {"objective": "hr"}})).empty
    tested = tables.ablation(make_results(VARIANTS, range(6)))  # without predictions
    assert tested["p, Holm"].tolist() == ["1"] * 4  # equal histories


def test_lines_hold_one_kind_of_run():
    """Networks and flags apart, without runs of which the fraction is not known."""

    def lines_of(figure):
        return {c.get_label(): c[0].get_xdata().tolist() for c in figure.axes[0].containers}

    small = {"architecture": "resnet34"}
    cells = CELLS | {
        "ema": BEAT | {"flags": "--ema 0.9"},
        "ema_10": BEAT | {"flags": "--ema 0.9", "records": 639},
        "imported": BEAT | {"pretraining_fraction": None},
        "beat_34": BEAT | small, "beat_34_25": BEAT | small | {"pretraining_fraction": 0.25},
        "beat_34_10": BEAT | small | {"records": 639},
    }  # fmt: skip
    made = make_results(cells)
    assert lines_of(figures.amounts(made, "pretraining_fraction")) == {
        "beat, 1-D, resnet18": [0, 0.25, 1], "beat, 1-D, resnet34": [0.25, 1],
        "Team 1, 1-D": [0, 0.01, 0.1, 0.2, 1], "Team 1, 2-D": [0, 0.01, 0.1, 0.2, 0.88],
    }  # fmt: skip
    assert lines_of(figures.amounts(made, "records")) == {
        "random, 1-D, resnet18": [639, 6395], "beat, 1-D, resnet18": [639, 6395],
        "beat, 1-D, resnet34": [639, 6395], "beat, 1-D, resnet18, --ema 0.9": [639, 6395],
    }  # fmt: skip
    few = make_results({"random": RANDOM, "beat": BEAT})
    assert figures.amounts(few, "records") is figures.amounts(few, "pretraining_fraction") is None


def validation_table(signal="as it is"):
    """Ten subjects, of whom two have AF that is detected in half of their windows."""
    rows = [
        {"record": str(100 + n), "subject": str(100 + n), "start": 30 * k, "signal": signal,
         "rhythms": "AFIB" if n < 2 else ("N", "AFL", "P", "B")[k % 4],
         "truth": AF if n < 2 else NOT_AF, "answer": "A" if n < 2 and k % 2 else "N"}
        for n in range(10) for k in range(8)
    ]  # fmt: skip
    rows[0] |= {"truth": MIXED, "rhythms": "AFIB N"}
    table = pd.DataFrame(rows)
    p = np.where(table["answer"] == "A", 0.9, 0.1)
    return table.assign(prob_A=p, prob_N=1 - p)


def test_external_validation():
    made = {"one": validation_table(), "two": validation_table("0.5 to 40 Hz")}
    row = tables.external_scores(made).iloc[0]
    counts = row[["windows", "AF windows", "subjects", "subjects with AF"]]
    assert counts.tolist() == [79, 15, 10, 2] and row["sensitivity"].startswith("0.533 [")
    assert row["specificity"] == "1.000 [1.000 to 1.000]"
    classes = tables.external_classes(made, "rhythm").iloc[0]
    assert classes["flutter (16)"] == "A 0%, N 100%" and classes["AF (15)"] == "A 53%, N 47%"
    records = tables.external_classes(made, "record").iloc[0].to_dict()
    assert records == {"weights": "one", "100 (7)": "A 57%, N 43%", "101 (8)": "A 50%, N 50%"}
    assert len(figures.roc_curves(made).axes) == 2
    # Intervals are over subjects: another window of the same subject adds nothing.
    twice = {"one": pd.concat([made["one"]] * 2, ignore_index=True)}
    again = tables.external_scores(twice).iloc[0]
    assert again["sensitivity":].tolist() == row["sensitivity":].tolist()


def test_tables_of_external_validation_that_cannot_be_used(tmp_path):
    validation_table().to_csv(tmp_path / "all.csv.gz", index=False)
    validation_table().iloc[:-1].to_csv(tmp_path / "part.csv.gz", index=False)
    with pytest.raises(UserError, match=r"part\.csv\.gz holds other windows"):
        tables.load_external_validation(tmp_path)
    (tmp_path / "all.csv.gz").write_bytes(gzip.compress(b"a,b\n1,2\n"))
    with pytest.raises(UserError, match="not such a table"):
        tables.load_external_validation(tmp_path)
