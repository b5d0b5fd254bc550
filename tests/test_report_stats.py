"""Intervals and tests, against examples by hand and against what they must always fulfil."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import false_discovery_control

from report import stats
from report.stats import MACRO_F1, Interval

PROBABILITY = st.floats(0, 1)
CLASSES = ["A", "N", "O", "~"]


def predictions(scenario, seed, true, prob):
    table = pd.DataFrame({"record_name": [f"A{i:05d}" for i in range(len(true))]})
    for name, values in (("true", np.eye(4, dtype=int)[true]), ("prob", prob)):
        table[[f"{name}_{c}" for c in CLASSES]] = values
    table.insert(0, "scenario", scenario)
    table.insert(1, "seed", seed)
    return table


def guesses(seed, skill, records=200):
    """Made-up answers to the same recordings; the more `skill`, the more of them are right."""
    true = np.random.default_rng(0).integers(4, size=records)
    prob = np.random.default_rng([1, seed]).dirichlet(np.ones(4), records)
    prob[np.arange(records), true] += skill
    return true, prob / prob.sum(1, keepdims=True)


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


@given(st.lists(PROBABILITY, min_size=1, max_size=20))
def test_holm_lies_between_no_correction_and_bonferroni(p):
    p = np.array(p)
    corrected = stats.holm(p)
    assert (corrected >= p).all() and (corrected <= np.minimum(p * len(p), 1)).all()
    assert (corrected >= false_discovery_control(p) - 1e-12).all()  # which is less strict
    order = np.argsort(p, kind="stable")
    assert (np.diff(corrected[order]) >= 0).all()


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


def test_only_common_seeds_are_paired():
    table = scores(random=[0.5, 0.6, 0.7, 0.8], beat=[0.9, 0.7])
    row = stats.compare(table, [("random", "beat")]).iloc[0]
    assert len(row["by_seed"]) == 2 and row["difference"].mean == pytest.approx(0.25)


def test_no_difference_at_all():
    table = stats.compare(scores(a=[0.5] * 6, b=[0.5] * 6), [("a", "b")])
    assert table["p"].item() == 1 and table["difference"].item() == (0, 0, 0)


def test_p_is_corrected_for_the_tests_that_were_done():
    base = np.linspace(0.5, 0.6, 6)
    table = scores(random=base, beat=base + 0.1, hr=base + 0.2, few=base[:3] + 0.1)
    pairs = [("random", name) for name in ("beat", "hr", "few")]
    found = stats.compare(table, pairs)
    assert found["p_holm"].tolist() == pytest.approx([4 / 64, 4 / 64, np.nan], nan_ok=True)


@given(st.lists(st.floats(-1, 1), min_size=3, max_size=12))
def test_interval_over_seeds_holds_the_mean_and_lies_within_the_values(values):
    mean, low, high = stats.over_seeds(values)
    slack = 1e-9
    assert (
        min(values) - slack <= low <= mean + slack and mean - slack <= high <= max(values) + slack
    )
    assert stats.over_seeds(values) == (mean, low, high)


def test_interval_over_seeds_covers():
    drawn = np.random.default_rng(0).normal(0.7, 0.02, size=(100, 10))
    intervals = [stats.over_seeds(values) for values in drawn]
    covered = np.mean([low <= 0.7 <= high for _, low, high in intervals])
    assert 0.82 <= covered <= 0.98  # percentile intervals of ten values: about nine in ten


def test_summary_is_rounded_and_uses_the_sample_deviation():
    table = pd.DataFrame({"scenario": ["a", "a", "b"], "seed": [1, 2, 1]})
    for values, expected in (([0.9996, 1.0, 0.5], "1.000 ± 0.000"),
                             ([0.7, 0.8, 0.5], "0.750 ± 0.071")):  # fmt: skip
        summary = stats.summarise(table.assign(**{MACRO_F1: values}))
        assert summary[MACRO_F1].tolist() == [expected, "0.500"]


def test_intervals_as_text():
    known, unknown = Interval(0.25, 0.1, 0.4), Interval(0.25, np.nan, np.nan)
    assert (str(known), str(unknown)) == ("0.250 [0.100, 0.400]", "0.250")
    assert (known.bounds(), unknown.bounds()) == ("0.100 to 0.400", "too few seeds")


def test_interval_over_recordings():
    table = pd.concat(
        predictions(name, seed, *guesses(seed, skill))
        for name, skill in (("random", 0), ("beat", 0.3))
        for seed in (10, 20)
    )
    found = stats.over_recordings(table, [("random", "beat")])
    by_run = stats.score_runs(table).groupby("scenario")[MACRO_F1].mean()
    for name in ("random", "beat"):
        assert found[name].mean == pytest.approx(by_run[name], abs=1e-6)
        assert found[name].low < found[name].mean < found[name].high
    difference = found["random", "beat"]
    assert difference.mean == pytest.approx(by_run["beat"] - by_run["random"], abs=1e-6)
    # The width of a share of 200: a few hundredths to each side.
    assert 0.04 < found["random"].high - found["random"].low < 0.2
    shuffled = table.sample(frac=1, random_state=0)
    assert stats.over_recordings(shuffled)["beat"] == pytest.approx(found["beat"], abs=1e-6)


def test_calibration_is_by_run():
    sure, unsure = np.eye(4), np.full((4, 4), 0.2) + np.eye(4) * 0.2
    table = pd.concat(
        predictions("beat", seed, np.arange(4), prob) for seed, prob in ((1, sure), (2, unsure))
    )
    found = stats.calibration(table).set_index("seed")
    assert found["ECE"].tolist() == pytest.approx([0, 0.6])
    assert found["NLL"].tolist() == pytest.approx([0, -np.log(0.4)])
