"""The report itself: its cells run on little, published rows are those published."""

import json

import numpy as np
import pandas as pd
import pytest

from report import build, claims, collect, figures, measurements, page, provenance, sample, tables
from report.stats import Interval
from tests.helpers import ROOT, command

CLASSES = ["A", "N", "O", "~"]
PNG = b"\x89PNG"


def make_results(cells, seeds=(10, 20, 30), records=40):
    """Made-up runs; `cells` are rows of `runs.csv` by scenario, those with a higher `skill` are
    right more often."""
    true = np.arange(records) % 4
    parts = ([], [], [])
    for (name, cell), seed in ((item, seed) for item in cells.items() for seed in seeds):
        prob = np.random.default_rng([seed, *name.encode()]).dirichlet(np.ones(4), records)
        prob[np.arange(records), true] += cell.get("skill", 0)
        table = pd.DataFrame(
            {"scenario": name, "seed": seed, "record_name": np.arange(records).astype(str)}
        )
        table[[f"true_{c}" for c in CLASSES]] = np.eye(4, dtype=int)[true]
        table[[f"prob_{c}" for c in CLASSES]] = prob / prob.sum(1, keepdims=True)
        history = {"scenario": name, "seed": seed, "epoch": [1, 2], "f1": [0.1, 0.2]}
        row = {"scenario": name, "seed": seed, **dict.fromkeys(provenance.COLUMNS)} | cell
        for part, value in zip(parts, (pd.DataFrame(history), table, row), strict=True):
            part.append(value)
    history, predictions, runs = parts
    columns = [*collect.RUN, *provenance.COLUMNS]
    return collect.Results(pd.concat(history), pd.concat(predictions), pd.DataFrame(runs)[columns])


FULL = {
    "architecture": "resnet18",
    "records": 6395,
    "max_epochs": 200,
    "labels": "zip",
    "epochs": 60,
    "flags": "none",
}
BEAT = FULL | {
    "objective": "beat",
    "pretraining_dataset": "icentia11k",
    "pretraining_fraction": 1.0,
    "skill": 1,
}
CELLS = {
    "random": FULL | {"objective": "random"},
    "beat": BEAT,
    "beat_25": BEAT | {"pretraining_fraction": 0.25},
    "random_10": FULL | {"objective": "random", "records": 639},
    "beat_10": BEAT | {"records": 639},
    "random_2d": FULL | {"objective": "random", "architecture": "resnet18_2d"},
}
DRAWN = {
    "learning": figures.learning,
    "fractions": lambda results: figures.fractions(results, tables.published()),
    "labels": figures.labels,
    "confusions": figures.confusions,
    "calibration": figures.calibration,
    "coverage": figures.coverage,
}


def notebook_cells():
    notebook = json.loads((ROOT / "report/report.ipynb").read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def run_notebook(folder, monkeypatch) -> list:
    """Everything that the cells display, with `folder` for report/results."""
    monkeypatch.delenv("ECG_DATA", raising=False)
    monkeypatch.chdir(ROOT)
    shown = []
    names = {"display": lambda *things: shown.extend(things)}
    for number, source in enumerate(notebook_cells()):
        exec(
            compile(
                source.replace('"report/results"', repr(str(folder))), f"cell {number}", "exec"
            ),
            names,
        )
    for thing in shown:
        kinds = [
            name
            for name in ("_repr_html_", "_repr_markdown_", "_repr_png_")
            if hasattr(thing, name)
        ]
        assert len(kinds) == 1 and getattr(thing, kinds[0])()
    return shown


def test_cells_run_on_small_results(tmp_path, monkeypatch):
    collect.save(make_results(CELLS), tmp_path / "study")
    varied = {"beat": BEAT, "ema": BEAT | {"flags": "--ema 0.9"}}
    varied = make_results(varied)._replace(part=collect.VALIDATION)
    collect.save(varied, tmp_path / "ablation")
    shown = run_notebook(tmp_path, monkeypatch)
    pictures = [thing for thing in shown if isinstance(thing, page.Picture)]
    assert len(pictures) == len(DRAWN) + 2 and all(p.png.startswith(PNG) for p in pictures)
    # The cross-check (of four things), precisions, objectives and benchmarks have no results there.
    assert [thing.text for thing in shown if isinstance(thing, page.Text)].count("*not run*") == 7


def test_cells_run_on_nothing(tmp_path, monkeypatch):
    shown = run_notebook(tmp_path, monkeypatch)
    assert sum(isinstance(thing, page.Picture) for thing in shown) == 1  # the sample
    assert (claims.table({})["verdict"] == claims.NOT_RUN).all()


def test_saved_results_are_in_the_notebook():
    notebook = json.loads((ROOT / "report/report.ipynb").read_text(encoding="utf-8"))
    outputs = [out for cell in notebook["cells"] for out in cell.get("outputs", [])]
    text = "".join("".join(out["data"].get("text/html", "")) for out in outputs)
    for results in collect.load_all(ROOT / "report/results").values():
        for value in tables.scores(results)["macro F1"]:
            assert value in text, "results were added; run make report"


@pytest.mark.parametrize("name", DRAWN)
def test_figures_of_minimal_data(name):
    few = make_results({"random": {"objective": "random"}, "beat": {"objective": "beat"}}, [1])
    figure = DRAWN[name](few)
    assert (figure is None) == (name in ("fractions", "labels"))
    assert page.show(DRAWN[name](make_results(CELLS))).png.startswith(PNG)


def test_sample_is_128_by_128(monkeypatch):
    monkeypatch.delenv("ECG_DATA", raising=False)
    image = sample.draw().axes[1].images[0].get_array()
    assert image.shape == (128, 128)


def test_sample_of_real_data(ecg_data):
    signal, source = sample.frame()
    assert signal.shape == (4096,) and "p00000_s17" in source


def test_published_rows():
    rows = tables.published().set_index(["source", "network", "objective", "frame", "fraction"])
    assert len(rows) == 14 and rows["reference"].notna().all()
    paper = rows.loc[("paper", "1-D", "beat", 2048, 1)]
    assert (paper["macro F1"], paper["macro F1 sd"], paper["F1 ~ sd"]) == (0.779, 0.014, 0.040)
    last = rows.loc[("Team 1", "2-D", "beat", 4096, 0.88)]
    assert (last["macro F1"], last["F1 A"], last["epochs"], last["epochs sd"]) == (
        0.765, 0.774, 56.2, 1.7)  # fmt: skip
    means = rows[["F1 N", "F1 A", "F1 O", "F1 ~"]].mean(axis=1)
    assert (means - rows["macro F1"]).abs().max() < 0.0015  # each rounded to three digits


def test_own_rows_stand_below_the_published_ones():
    table = tables.scores(make_results(CELLS))
    assert table["source"].tolist() == ["paper"] * 4 + ["Team 1"] * 10 + ["here"] * len(CELLS)
    assert table["95 %, seeds"].iloc[-1].count("to") == 1
    assert tables.tested(make_results(CELLS)).iloc[0, 0] == 40
    text = tables.differences(make_results(CELLS))
    assert text["scenario"].tolist() == ["beat_10", "beat_25", "beat"]
    assert set(text["p, Holm"]) == {"too few seeds for a test"}


def test_runs_without_temperature_are_named_so():
    cells = {"random": FULL, "beat": BEAT | {"temperature": 1.414}}
    results = make_results(cells)
    assert tables.calibration(results).set_index("weights")["probabilities"].to_dict() == {
        "random": "without temperature", "beat": "temperature 1.41",
    }  # fmt: skip
    results.runs.loc[results.runs.index[-1], "temperature"] = 2
    assert tables.calibration(results)["probabilities"].iloc[-1] == "temperature 1.41 to 2.00"


@pytest.mark.parametrize(
    ("mean", "p", "differs", "words"),
    [
        (0.1, 0.04, "", "reproduced"),
        (0.1, 0.04, "6 of 10 seeds", "seen, by another protocol"),
        (0.1, 0.05, "", "no clear difference"),
        (-0.1, 0.04, "", "the contrary is seen"),
        (0.1, np.nan, "", "too few seeds to tell: 2 of 3 gain"),
    ],
)
def test_verdicts(mean, p, differs, words):
    interval = Interval(mean, mean - 0.01, mean + 0.01)  # of three seeds, nothing is concluded
    found = claims.Found("study", "beat − random", interval, 3, 2, p, differs)
    assert claims.verdict(found, p) == words


def test_claims_name_what_is_different():
    table = claims.table({"study": make_results(CELLS, range(10))})
    by_study = table[table["study"] != ""].set_index("study")
    assert by_study.loc["study: beat − random", "verdict"] == "reproduced"
    assert by_study.loc["study: beat_25 − random", "verdict"] == "reproduced"
    assert (table["verdict"] == claims.NOT_RUN).sum() == 5
    other = pd.Series(BEAT | {"flags": "--batch-size 128, --ema 0.9", "fraction": 0.25})
    words = "trained with --ema 0.9"  # 128 is the replication's
    assert claims.protocol(other, 10, {"fraction"}) == words
    assert claims.protocol(other, 10) == f"pretrained on 25 % of the patients; {words}"
    few = make_results({"random": {"flags": "none"},
                        "beat": BEAT | {"records": None, "labels": "v3"}})  # fmt: skip
    few = few._replace(runs=few.runs.assign(architecture=None))
    differs = claims.table({"study": few})["why not the same protocol"].max()
    assert differs == "3 of 10 seeds; records not recorded; labels v3, not zip"


def test_claims_are_not_reproduced_by_what_nobody_recorded():
    for cells, words in (
        ({"beat": BEAT | {"pretraining_fraction": None}}, "fraction not recorded"),
        ({"beat": BEAT | {"flags": None}}, "flags not recorded"),
        ({"random": FULL | {"objective": "random", "flags": None}}, "flags not recorded"),
    ):
        made = make_results({name: CELLS[name] for name in ("random", "beat")} | cells, range(10))
        rows = claims.table({"study": made})
        row = rows[rows["study"] != ""].squeeze()
        assert row["verdict"].startswith("seen, by another protocol")
        assert row["why not the same protocol"] == words
        assert row["published"].startswith("beat classification is better")
    assert tables.studied(made)["other flags"].tolist() == ["not recorded", "none"]


def lines_of(figure, place=0):
    """Values at the points of each line, by its label."""
    return {c.get_label(): c[0].get_xdata().tolist() for c in figure.axes[place].containers}


def test_lines_of_figures_hold_one_kind_of_run():
    """Networks apart; without runs of other flags, or of which nobody knows the fraction."""
    small = {"architecture": "resnet34"}
    cells = CELLS | {
        "recommended": BEAT | {"flags": "--augment"},
        "recommended_10": BEAT | {"flags": "--augment", "records": 639},
        "imported": BEAT | {"pretraining_fraction": None},
        "random": FULL | {"objective": "random", "flags": None},  # by an earlier version
        "beat_34": BEAT | small, "beat_34_25": BEAT | small | {"pretraining_fraction": 0.25},
        "beat_34_10": BEAT | small | {"records": 639},
    }  # fmt: skip
    made = make_results(cells)
    drawn = lines_of(figures.fractions(made, tables.published()))
    assert drawn.pop("Team 1, Icentia11k") == [0, 0.01, 0.1, 0.2, 1]
    assert drawn == {"here, resnet18": [0, 0.25, 1], "here, resnet34": [0.25, 1]}
    assert lines_of(figures.labels(made)) == {
        "random, resnet18": [639, 6395], "beat, resnet18": [639, 6395],
        "beat, resnet34": [639, 6395],
    }  # fmt: skip


def test_other_measurements(tmp_path):
    assert [make(tmp_path) for make in (measurements.precisions, measurements.objectives,
                                        measurements.benchmarks)] == [None] * 3  # fmt: skip
    saved = ROOT / "report/results"
    assert measurements.precisions(saved / "precision")["seeds"].tolist() == [6] * 4
    assert set(measurements.objectives(saved / "objectives")["objective"]) == {
        "beat", "cpc", "hr", "rhythm"}  # fmt: skip
    speed = measurements.benchmarks(saved / "benchmarks")
    extrapolated = speed["benchmark"].eq("scale_50_segments") & speed["of"].str.contains("11000")
    assert not extrapolated.any() and speed["of"].str.contains("11000").any()


def test_damaged_results_are_one_line(monkeypatch):
    exceptions = pytest.importorskip("nbclient.exceptions")
    import nbclient

    def execute(client):
        raise exceptions.CellExecutionError("a traceback", "UserError", "x.csv is damaged")

    monkeypatch.setattr(nbclient.NotebookClient, "execute", execute)
    command(build.main).refused("error: x.csv is damaged")


def test_without_jupyter_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "nbformat", None)
    command(build.main).refused("nbformat", "make report")
