"""From probabilities and doubts to an answer: one class, several, or "cannot tell"."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

CANNOT_TELL, NONE = "cannot tell", "none of these"
READABLE = 0.5  # of the windows, for an answer about the whole


class Answer(NamedTuple):
    """What a network says of a stretch of a recording.

    Attributes:
        start, stop: seconds. probabilities: (classes,) float32, calibrated; NaN where `reason` is
            about the signal.
        classes: that it has; none where a network that knows several at once finds none.
        reason: why one cannot tell; then `classes` is empty.
    """

    start: float
    stop: float
    probabilities: np.ndarray
    classes: tuple[str, ...]
    reason: str | None = None

    @property
    def confidence(self) -> float:
        """Largest probability of a class; NaN where there are none."""
        return float(self.probabilities.max())

    @property
    def readable(self) -> bool:
        return bool(np.isfinite(self.probabilities).all())

    def say(self, words: Mapping[str, str]) -> str:
        """Without the reason; `words` are what classes are called."""
        if self.reason:
            return CANNOT_TELL
        return ", ".join(words[name] for name in self.classes) or NONE


class Prediction(NamedTuple):
    """What a network says of a recording: as a whole, and window by window.

    Attributes:
        names: of the classes, in the order of all probabilities.
        windows: one where the recording is short, and equal to `whole`.
    """

    names: list[str]
    whole: Answer
    windows: list[Answer]

    @property
    def probabilities(self) -> np.ndarray:
        """Of the whole, (classes,) float32."""
        return self.whole.probabilities

    @property
    def classes(self) -> tuple[str, ...]:
        """Of the whole; empty where one cannot tell."""
        return self.whole.classes

    def shares(self) -> dict[str, float]:
        """Of the time that was looked at, by answer; "" where one cannot tell."""
        seconds = dict.fromkeys([*self.names, ""], 0.0)
        for answer in self.windows:
            for name in answer.classes or ([""] if answer.reason else []):
                seconds[name] += answer.stop - answer.start
        total = sum(answer.stop - answer.start for answer in self.windows)
        return {name: value / total for name, value in seconds.items()}


class Rule(NamedTuple):
    """How probabilities become an answer.

    Attributes:
        names: of the classes. multi_label: whether several may be true.
        abstain: confidence from which a class is an answer; of one class only.
    """

    names: Sequence[str]
    multi_label: bool
    abstain: float

    def answer(self, start: float, stop: float, found: np.ndarray | str) -> Answer:
        """Of a stretch, from probabilities (classes,) or from why there are none."""
        if not isinstance(found, str) and not np.isfinite(found).all():
            found = "the network gives no numbers"
        if isinstance(found, str):
            nothing = np.full(len(self.names), np.nan, np.float32)
            return Answer(start, stop, nothing, (), found)
        if self.multi_label:
            chosen = tuple(name for name, p in zip(self.names, found, strict=True) if p > 0.5)
            return Answer(start, stop, found, chosen)
        best = int(found.argmax())
        if found[best] < self.abstain:
            return Answer(start, stop, found, (), f"confidence is below {self.abstain:g}")
        return Answer(start, stop, found, (self.names[best],))

    def whole(self, windows: Sequence[Answer]) -> Answer:
        """Of a recording: the mean of what its windows say, weighed by their length."""
        if len(windows) == 1:
            return windows[0]
        start, stop = windows[0].start, windows[-1].stop
        readable = [answer for answer in windows if answer.readable]
        if len(readable) < READABLE * len(windows):
            reasons = [answer.reason for answer in windows if not answer.readable]
            often = max(sorted(set(reasons)), key=reasons.count)
            few = f"{len(readable)} of {len(windows)} windows can be read ({often})"
            return self.answer(start, stop, few)
        weights = [answer.stop - answer.start for answer in readable]
        probabilities = [answer.probabilities for answer in readable]
        mean = np.average(probabilities, axis=0, weights=weights).astype(np.float32)
        return self.answer(start, stop, mean)
