"""Intervals and tests, against examples by hand."""

import numpy as np
import pandas as pd
import pytest

from report import stats
from report.stats import MACRO_F1
from tests.test_report_tables import BEAT, make_results


def scores(**values):
    return pd.concat(
        pd.DataFrame({"scenario": name, "seed": range(len(each)), MACRO_F1: each})
        for name, each in values.items()
    )


def test_holm_by_hand():
    # 0.01 × 4, 0.02 × 3, 0.03 × 2 = 0.06, 0.9 × 1; in any order
    corrected = stats.holm(np.array([0.9, 0.01, np.nan, 0.03, 0.02]))
    assert corrected == pytest.approx([0.9, 0.04, np.nan, 0.06, 0.06], nan_ok=True)
    assert stats.holm(np.array([])).shape == (0,)


@pytest.mark.parametrize(("seeds", "tested"), [(2, False), (3, False), (5, False), (6, True)])
def test_too_few_seeds(seeds, tested):
    better = np.linspace(0.6, 0.7, seeds)
    table = stats.compare(scores(random=better - 0.1, beat=better), [("random", "beat")])
    row = table.iloc[0]
    assert row["by_seed"].tolist() == pytest.approx([0.1] * seeds)
    assert row["difference"].mean == pytest.approx(0.1)
    assert np.isfinite(row["difference"].low) == (seeds >= 3)
    assert np.isfinite(row["p"]) == np.isfinite(row["p_holm"]) == tested
    if tested:  # all six signs alike: 2 / 2^6
        assert row["p"] == pytest.approx(2 / 64)


def test_common_seeds_are_paired():
    table = stats.compare(scores(random=[0.5, 0.6, 0.7], beat=[0.9, 0.7]), [("random", "beat")])
    assert len(table["by_seed"][0]) == 2 and table["difference"][0].mean == pytest.approx(0.25)
    same = stats.compare(scores(a=[0.5] * 6, b=[0.5] * 6), [("a", "b")])
    assert same["p"].item() == 1 and same["difference"].item() == (0, 0, 0)


def test_interval_over_seeds_by_hand():
    # Three seeds: t of 2 degrees of freedom is 4.303, the deviation 0.1.
    mean, low, high = stats.over_seeds([0.5, 0.6, 0.7])
    assert (mean, high - mean, mean - low) == pytest.approx((0.6, 0.2484, 0.2484), abs=1e-4)
    drawn = np.random.default_rng(0).normal(0.7, 0.02, size=(400, 3))
    covered = [low <= 0.7 <= high for _, low, high in map(stats.over_seeds, drawn)]
    assert 0.92 <= np.mean(covered) <= 0.98


def test_summary_is_rounded_and_uses_the_sample_deviation():
    table = pd.DataFrame({"scenario": ["a", "a", "b"], "seed": [1, 2, 1]})
    for values, expected in (([0.9996, 1.0, 0.5], "1.000 ± 0.000"),
                             ([0.7, 0.8, 0.5], "0.750 ± 0.071")):  # fmt: skip
        summary = stats.summarise(table.assign(**{MACRO_F1: values}))
        assert summary[MACRO_F1].tolist() == [expected, "0.500"]


def test_interval_over_recordings():
    cells = {"random": BEAT | {"skill": 0}, "beat": BEAT | {"skill": 0.3}}
    table = make_results(cells, (10, 20), records=200).predictions
    found = stats.over_recordings(table, [("random", "beat")])
    means = stats.score_runs(table).groupby("scenario")[MACRO_F1].mean()
    for name in cells:
        assert found[name].mean == pytest.approx(means[name], abs=1e-6)
        assert found[name].low < found[name].mean < found[name].high
    difference = means["beat"] - means["random"]
    assert found["random", "beat"].mean == pytest.approx(difference, abs=1e-6)
    probabilities = table.filter(like="prob")
    absent = table.drop(columns=probabilities).assign(true_X=0, **probabilities, prob_X=0.0)
    assert stats.over_recordings(absent)["beat"] == pytest.approx(found["beat"])
    # The width of a share of 200: a few hundredths to each side.
    assert 0.04 < found["random"].high - found["random"].low < 0.2


def test_calibration_is_by_run():
    table = make_results({"beat": BEAT}, (1, 2), records=4).predictions
    columns = table.filter(like="prob_").columns
    sure, unsure = np.eye(4), np.full((4, 4), 0.2) + np.eye(4) * 0.2
    table[columns] = np.concatenate([sure, unsure])
    found = stats.calibration(table).set_index("seed")
    assert found["ECE"].tolist() == pytest.approx([0, 0.6])
    assert found["NLL"].tolist() == pytest.approx([0, -np.log(0.4)])
