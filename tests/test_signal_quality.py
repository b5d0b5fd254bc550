"""Constant, clipped and impossible samples are told from others."""

import numpy as np
import pytest
import wfdb

from recordings import Unusable
from recordings.quality import assess, fill_missing, mark_impossible

CONSTANT, CLIPPED, NEITHER = (True, False), (False, True), (False, False)
WAVE = np.rint(1000 * np.sin(np.arange(5000) / 37)).astype(np.int16)


@pytest.mark.parametrize("dtype", [np.int16, np.float16, np.float32, np.float64])
def test_constant_or_clipped_at_one_end_or_both(dtype):
    assert assess(np.full(1000, -7, dtype)) == assess(np.zeros(1, dtype)) == CONSTANT
    assert assess((np.arange(1000) == 999).astype(dtype)) == CLIPPED  # flat, with a glitch
    assert assess(WAVE.astype(dtype)) == NEITHER
    for limits in ((-800, 800), (-800, 2000), (-2000, 800)):
        assert assess(WAVE.clip(*limits).astype(dtype)) == CLIPPED


@pytest.mark.parametrize(
    ("count", "length", "expected"),
    [(2, 5, CLIPPED), (1, 10, CLIPPED), (1, 9, NEITHER), (15, 4, NEITHER), (0, 0, NEITHER)],
)
def test_a_hundredth_in_runs_of_five_samples(count, length, expected):
    signal = np.random.default_rng(0).integers(-500, 500, 1000)
    for start in range(100, 100 + 50 * count, 50):
        signal[start : start + length] = 2000
    assert assess(signal) == expected


def test_coarse_steps_are_not_clipped():
    slow = np.convolve(np.random.default_rng(0).standard_normal(5000), np.hanning(50), "same")
    steps = np.rint(slow * 2.5 / np.abs(slow).max())  # of five levels, held for long
    assert np.isin(steps, (-2, 2)).mean() > 0.02
    assert assess(steps) == NEITHER
    assert assess(slow.clip(*np.percentile(slow, (5, 95)))) == CLIPPED


def test_impossible_samples_are_marked_and_filled():
    """Further than 30 mV from the median of their own lead, which may lie anywhere."""
    signal = np.column_stack([WAVE / 1000, WAVE / 1000 + 300])
    bad = signal.copy()
    bad[[0, 70, 71, 4999], [0, 0, 0, 1]] = 300, -100, np.inf, 187.5
    marked = mark_impossible(bad)
    assert np.argwhere(np.isnan(marked)).tolist() == [[0, 0], [70, 0], [71, 0], [4999, 1]]
    filled, count = fill_missing(marked, 250)
    assert count == 4 and np.abs(filled - signal).max() < 0.03
    assert np.isnan(marked).sum() == 4 and bad[0, 0] == 300  # neither is changed
    same, count = fill_missing(mark_impossible(signal), 250)
    assert count == 0 and np.array_equal(same, signal)
    signal[::500, 0] = -10  # the rail of a converter, though no 30 mV away
    assert np.argwhere(np.isnan(mark_impossible(signal))).tolist() == [
        [n, 0] for n in range(0, 5000, 500)
    ]


@pytest.mark.parametrize(
    ("gaps", "words"),
    [([(0, 100), (300, 400)], None), ([(100, 225)], None), ([(100, 226)], "0.6% .* 1 .* 0.5 s"),
     ([(0, 100), (300, 401)], "1.0% .* lead 1 .* 0.4 s"), ([(0, 20_000)], "100.0% .* 80 s")],
)  # fmt: skip
def test_how_much_may_be_missing(gaps, words):
    """One hundredth of a lead, at most half a second at a time."""
    signal = np.zeros((20_000, 2))
    for start, stop in gaps:
        signal[start:stop, 1] = np.nan
    if words:
        with pytest.raises(Unusable, match=words):
            fill_missing(signal, 250)
    else:
        filled, count = fill_missing(signal, 250)
        assert count == np.isnan(signal).sum() and not filled.any()


# The ADC of MIT-BIH reaches from 0 to 2,047: the stretches of 10 s that stay there, by eye.
AT_THE_RAILS = {"103": (1, [135, 136, 137]), "116": (0, [100, 139, 140]), "223": (1, [44, 62, 63]),
                "100": (0, []), "208": (0, [])}  # fmt: skip


@pytest.mark.parametrize("record", AT_THE_RAILS)
def test_ten_seconds_of_real_recordings(ecg_data, record):
    lead, expected = AT_THE_RAILS[record]
    signal = wfdb.rdrecord(str(ecg_data / "mitdb" / record), physical=False).d_signal[:, lead]
    pieces = signal[: 180 * 3600].reshape(180, 3600)
    assert [number for number, piece in enumerate(pieces) if assess(piece).clipped] == expected
    assert assess(signal) == (False, False)  # of half an hour these are too little
