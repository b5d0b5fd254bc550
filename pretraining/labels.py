"""Labels of frames from annotations: the rules of Weimann & Conrad's code, vectorised over frames.

A frame is samples [start, end). An annotation's index marks the end of its beat or rhythm interval.

Arguments of all rules:
    ends: (annotations,) sample that ends each beat or interval, of many segments one after the
        other, ascending in each.
    codes: (annotations,) class of each, see `recordings.annotations`.
    within: (n,) first and (n,) stop: the annotations of a frame's segment are numbered
        first … stop - 1.
    starts: (n,) first sample of each frame in its segment. frame_size: samples.
"""

import numpy as np

from recordings.annotations import BEAT_CLASSES, HEART_RATE_CLASSES, RHYTHM_CLASSES

ECTOPIC = BEAT_CLASSES.index("pac")  # pac, aberrated, pvc: from here to the end
# Rhythms that decide a frame wherever they occur, and the others.
DECISIVE = np.array([RHYTHM_CLASSES.index(name) for name in ("undefined", "afib", "aflut")])
COMMON = np.array([RHYTHM_CLASSES.index(name) for name in ("end", "noise", "normal")])
TACHYCARDIA, BRADYCARDIA, NORMAL_RATE, NOISE = range(len(HEART_RATE_CLASSES))
Array = np.ndarray
Within = tuple[Array, Array]


def beat_labels(ends: Array, codes: Array, within: Within, starts: Array, frame_size: int) -> Array:
    """Beat class of each frame, (n,) int64; raises `ValueError` if a code is none of the classes.

    The most frequent of pac, aberrated and pvc if any occurs, else the more frequent of undefined
    and normal; the lowest code wins a tie, and a frame without a complete beat is undefined.
    """
    first, stop = complete_beats(ends, within, starts, frame_size)
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
    ends: Array, within: Within, starts: Array, frame_size: int, fs: float
) -> Array:
    """Heart-rate class of each frame, (n,) int64.

    From the mean interval between the ends of its complete beats: below 60 bpm bradycardia, up to
    100 bpm normal, above that tachycardia; noise where there are fewer than two. `fs` is in Hz.
    """
    first, stop = complete_beats(ends, within, starts, frame_size)
    counted = stop - first > 1
    first, last = first[counted], stop[counted] - 1
    intervals, span = last - first, ends[last].astype(np.int64) - ends[first]  # span in samples
    # Multiplied out, so that 60 and 100 bpm are met exactly: bpm = 60 fs intervals / span.
    slow, fast = fs * intervals < span, 60 * fs * intervals > 100 * span
    labels = np.full(len(starts), NOISE)
    labels[counted] = np.select([slow, fast], [BRADYCARDIA, TACHYCARDIA], NORMAL_RATE)
    return labels


def rhythm_labels(
    ends: Array, codes: Array, within: Within, starts: Array, frame_size: int
) -> Array:
    """Rhythm class of each frame, (n,) int64.

    The longest of undefined, afib and aflut if any occurs, else the longest of end, noise and
    normal; the lowest code wins a tie, and a frame after the last annotation is undefined.

    The interval in which the frame starts counts from there. The last one that begins in the frame
    counts up to the frame's end, even where the annotations end earlier.
    """
    stops = starts + frame_size
    first = search(ends, within, starts, "right")
    stop = np.minimum(search(ends, within, stops, "left") + 1, within[1])
    places = first[:, None] + np.arange((stop - first).max(initial=0))  # (n, longest) intervals
    inside = places < stop[:, None]
    places = np.where(inside, places, 0)
    begin = np.where(places == first[:, None], starts[:, None], ends[places - 1])
    end = np.where(places == stop[:, None] - 1, stops[:, None], ends[places])
    lengths = np.where(inside, end - begin, 0)
    code = codes[places]
    durations = [(lengths * (code == k)).sum(1) for k in range(len(RHYTHM_CLASSES))]
    durations = np.stack(durations, axis=1)  # (n, classes) samples
    decisive, common = durations[:, DECISIVE], durations[:, COMMON]
    others = np.where(common.any(1), COMMON[common.argmax(1)], RHYTHM_CLASSES.index("undefined"))
    return np.where(decisive.any(1), DECISIVE[decisive.argmax(1)], others)


def complete_beats(
    ends: Array, within: Within, starts: Array, frame_size: int
) -> tuple[Array, Array]:
    """First complete beat of each frame, and one past its last, (n,) each. The first beat that
    ends in a frame began before it, hence the one added."""
    first = search(ends, within, starts, "left") + 1
    return first, search(ends, within, starts + frame_size, "right")


def search(ends: Array, within: Within, places: Array, side: str) -> Array:
    """`np.searchsorted(ends, places, side)` (n,), each place searched `within` its segment."""
    before = np.less if side == "left" else np.less_equal
    low, stop = within[0].copy(), within[1]
    step = 1 << int((stop - low).max(initial=0)).bit_length()
    while step := step >> 1:  # a bit of every answer at once, from the highest on
        ahead = low + step
        right = before(ends.take(ahead - 1, mode="clip"), places) & (ahead <= stop)
        np.add(low, step, out=low, where=right)
    return low
