"""Labels of frames from annotations: the rules of Weimann & Conrad's code, vectorised over frames.

A frame is samples [start, end). An annotation's index marks the end of its beat or rhythm interval.

Arguments of all rules:
    ends: (annotations,) sample that ends each beat or interval, ascending.
    codes: (annotations,) class of each, see `recordings.annotations`.
    starts: (n,) first sample of each frame. frame_size: samples.
    within: None, or (n,) first and (n,) stop: `ends` and `codes` then hold the annotations of many
        segments, one after the other, and those of a frame's segment are numbered first … stop - 1.
"""

import numpy as np

from recordings.annotations import BEAT_CLASSES, HEART_RATE_CLASSES, RHYTHM_CLASSES

ECTOPIC = BEAT_CLASSES.index("pac")  # pac, aberrated, pvc: from here to the end
# Rhythms that decide a frame wherever they occur, and the others.
DECISIVE = np.array([RHYTHM_CLASSES.index(name) for name in ("undefined", "afib", "aflut")])
COMMON = np.array([RHYTHM_CLASSES.index(name) for name in ("end", "noise", "normal")])
Within = tuple[np.ndarray, np.ndarray] | None
TACHYCARDIA, BRADYCARDIA, NORMAL_RATE, NOISE = range(len(HEART_RATE_CLASSES))


def beat_labels(
    ends: np.ndarray, codes: np.ndarray, starts: np.ndarray, frame_size: int, within: Within = None
) -> np.ndarray:
    """Beat class of each frame, (n,) int64.

    The most frequent of pac, aberrated and pvc if any occurs, else the more frequent of
    undefined and normal; the lowest code wins a tie, and a frame without a complete beat is
    undefined.

    Raises:
        ValueError: a code is none of the classes.
    """
    first, stop = complete_beats(ends, starts, frame_size, within)
    lengths, classes = np.maximum(stop - first, 0), len(BEAT_CLASSES)
    frames = np.repeat(np.arange(len(starts)), lengths)  # of each complete beat
    beats = np.arange(len(frames)) + np.repeat(first - lengths.cumsum() + lengths, lengths)
    counted = codes[beats]
    if not 0 <= counted.min(initial=0) <= counted.max(initial=0) < classes:
        raise ValueError("a code of no class")
    cells = np.bincount(frames * classes + counted, minlength=len(starts) * classes)
    counts = cells.reshape(-1, classes)
    ectopic, common = counts[:, ECTOPIC:], counts[:, :ECTOPIC]
    return np.where(ectopic.any(1), ECTOPIC + ectopic.argmax(1), common.argmax(1))


def heart_rate_labels(
    ends: np.ndarray, starts: np.ndarray, frame_size: int, fs: float, within: Within = None
) -> np.ndarray:
    """Heart-rate class of each frame, (n,) int64.

    From the mean interval between the ends of its complete beats: below 60 bpm bradycardia, up to
    100 bpm normal, above that tachycardia; noise where there are fewer than two. `fs` is in Hz.
    """
    first, stop = complete_beats(ends, starts, frame_size, within)
    intervals = stop - first - 1
    counted = intervals > 0
    first, last = np.where(counted, first, 0), np.where(counted, stop - 1, 0)
    padded = ends if len(ends) else np.zeros(1, np.int64)
    span = padded[last].astype(np.int64) - padded[first]  # samples
    # Multiplied out, so that 60 and 100 bpm are met exactly: bpm = 60 fs intervals / span.
    slow = fs * intervals < span
    fast = 60 * fs * intervals > 100 * span
    rate = np.where(slow, BRADYCARDIA, np.where(fast, TACHYCARDIA, NORMAL_RATE))
    return np.where(counted, rate, NOISE)


def rhythm_labels(
    ends: np.ndarray, codes: np.ndarray, starts: np.ndarray, frame_size: int, within: Within = None
) -> np.ndarray:
    """Rhythm class of each frame, (n,) int64.

    The longest of undefined, afib and aflut if any occurs, else the longest of end, noise and
    normal; the lowest code wins a tie, and a frame after the last annotation is undefined.
    """
    durations = rhythm_durations(ends, codes, starts, frame_size, within)
    decisive, common = durations[:, DECISIVE], durations[:, COMMON]
    others = np.where(common.any(1), COMMON[common.argmax(1)], RHYTHM_CLASSES.index("undefined"))
    return np.where(decisive.any(1), DECISIVE[decisive.argmax(1)], others)


def rhythm_durations(
    ends: np.ndarray, codes: np.ndarray, starts: np.ndarray, frame_size: int, within: Within = None
) -> np.ndarray:
    """Samples of each rhythm in each frame, (n, classes) int64.

    The interval in which the frame starts counts from there. The last one that begins in the frame
    counts up to the frame's end, even where the annotations end earlier.
    """
    stops = starts + frame_size
    first = search(ends, starts, "right", within)
    last = within[1] if within else len(ends)
    stop = np.minimum(search(ends, stops, "left", within) + 1, last)
    longest = max(int((stop - first).max(initial=0)), 0)
    if not longest:
        return np.zeros((len(starts), len(RHYTHM_CLASSES)), np.int64)
    places = first[:, None] + np.arange(longest)  # (n, longest) intervals
    inside = places < stop[:, None]
    places = np.where(inside, places, 0)
    begin = np.where(places == first[:, None], starts[:, None], ends[places - 1])
    end = np.where(places == stop[:, None] - 1, stops[:, None], ends[places])
    length = np.where(inside, end - begin, 0)
    code = codes[places]
    return np.stack([(length * (code == k)).sum(1) for k in range(len(RHYTHM_CLASSES))], axis=1)


def complete_beats(
    ends: np.ndarray, starts: np.ndarray, frame_size: int, within: Within = None
) -> tuple[np.ndarray, np.ndarray]:
    """First complete beat of each frame, and one past its last, (n,) each.

    The first beat that ends in a frame began before the frame, hence the one added.
    """
    first = search(ends, starts, "left", within) + 1
    return first, search(ends, starts + frame_size, "right", within)


def search(ends: np.ndarray, places: np.ndarray, side: str, within: Within = None) -> np.ndarray:
    """`np.searchsorted(ends, places, side)` (n,), each place searched `within` its segment."""
    if within is None:
        return np.searchsorted(ends, places, side)
    before = np.less if side == "left" else np.less_equal
    low, stop = within[0].copy(), within[1]
    step = 1 << int((stop - low).max(initial=0)).bit_length()
    while step := step >> 1:  # a bit of every answer at once, from the highest on
        ahead = low + step
        right = before(ends.take(ahead - 1, mode="clip"), places) & (ahead <= stop)
        np.add(low, step, out=low, where=right)
    return low
