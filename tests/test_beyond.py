"""Variants of a recipe: judged by validation, in one way."""

import numpy as np
import pandas as pd
import pytest

from report import beyond, collect, figures
from tests.test_report_page import BEAT, make_results

SEEDS = (10, 20)
VARIED = {
    "beat": BEAT | {"records": 639},
    "augment": BEAT | {"records": 639, "flags": "--augment"},
    "recommended": BEAT | {"records": 639, "flags": "--ema 0.999, --augment"},
}


def varied(**f1):
    """Results on validation, with macro F1 by epoch of (scenario, seed)."""
    results = make_results(VARIED, SEEDS)
    history = pd.concat(
        pd.DataFrame({"scenario": name, "seed": seed, "epoch": range(1, 8), "f1": values})
        for name, by_seed in f1.items()
        for seed, values in by_seed.items()
    )
    return results._replace(history=history, part=collect.VALIDATION)


@pytest.fixture
def results():
    flat = np.full(7, 0.5)
    return varied(
        beat={10: flat, 20: flat + 0.1},
        augment={10: flat + 0.02, 20: flat + 0.08},
        recommended={10: [0.9, 0.9, 0.5, 0.6, 0.7, 0.8, 0.9], 20: flat + 0.2},
    )


def without(results, scenario, seed):
    """All but one run."""
    tables = (
        table[(table["scenario"] != scenario) | (table["seed"] != seed)] for table in results[:3]
    )
    return collect.Results(*tables, results.part)


def test_the_mean_of_the_last_five_epochs_counts(results):
    late = beyond.late(results.history).set_index(collect.RUN)["macro F1"]
    assert late["recommended", 10] == pytest.approx(0.7) and late["beat", 20] == 0.6
    shuffled = beyond.late(results.history.sample(frac=1, random_state=0))
    assert shuffled.set_index(collect.RUN)["macro F1"].to_dict() == pytest.approx(late.to_dict())
    short = results.history[results.history["epoch"] < 3]  # fewer than five: all of them
    late = beyond.late(short).set_index(collect.RUN)["macro F1"]
    assert late["recommended", 10] == pytest.approx(0.9)


def test_table_by_hand(results):
    table = beyond.table(results).set_index("scenario")
    assert table.index.tolist() == ["beat", "augment", "recommended"]
    assert table["changes"].tolist() == ["baseline", "--augment", "--ema 0.999, --augment"]
    assert table["seed 10"].tolist() == ["0.500", "0.520 (+0.020)", "0.700 (+0.200)"]
    assert table["seed 20"].tolist() == ["0.600", "0.580 (-0.020)", "0.700 (+0.100)"]
    assert table["mean"].tolist() == ["0.550 ± 0.071", "0.550 ± 0.042", "0.700 ± 0.000"]
    assert table["difference"].tolist() == ["", "+0.000", "+0.150"]
    assert table["common seeds"].tolist() == ["", "2", "2"]
    assert table["best epoch"].tolist()[-1] == "0.800 ± 0.141 (+0.250)"
    assert set(table["p, Holm"]) == {"", "too few seeds for a test"}
    assert list(table)[-1] == "final predictions"
    assert "final predictions" not in beyond.table(results._replace(part=collect.TEST))


def test_missing_runs_are_not_run(results):
    some = without(without(results, "augment", 20), "recommended", 10)
    some = without(some, "beat", 10)
    planned = {"augment": [10, 20, 30], "mixup": [10, 20, 30]}
    table = beyond.table(some, planned).set_index("scenario")
    assert table.loc["beat", ["seed 10", "seed 20", "seed 30"]].tolist() == [
        "not run", "0.600", "not run"]  # fmt: skip
    assert table.loc["augment", ["seed 10", "seed 20"]].tolist() == ["0.520", "not run"]
    assert table.loc["augment", ["difference", "common seeds"]].tolist() == ["", ""]
    assert table.loc["recommended", ["difference", "common seeds"]].tolist() == ["+0.100", "1"]
    assert table.loc["recommended", "mean"] == "0.700"
    assert table.loc["mixup", "changes"] == "not run" and not table.loc["mixup", "mean"]
    assert figures.variants(some)


def test_from_six_seeds_on_there_is_a_test():
    table = beyond.table(make_results(VARIED, range(6)))
    assert table["p, Holm"].tolist() == ["", "1", "1"]  # equal histories


def test_without_variants_there_is_nothing_to_show(results):
    alone = without(without(results, "augment", 10), "augment", 20)
    alone = without(without(alone, "recommended", 10), "recommended", 20)
    assert beyond.table(alone) is None and figures.variants(alone) is None


def test_a_missing_baseline_is_no_other_row(results):
    alone = without(without(results, "beat", 10), "beat", 20)
    assert beyond.table(alone) is None


def test_planned_runs_are_those_of_the_study(results):
    assert beyond.planned(results, "ablation")["long_run"] == [10, 20]
    assert beyond.planned(results, "no such study") == {}
    known = results._replace(runs=results.runs.assign(study=str(beyond.STUDIES / "ablation.toml")))
    assert beyond.planned(known, "no such study")["long_run"] == [10, 20]
