"""What one example of an objective is: which frames it takes, and its label."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

from pretraining.icentia11k.index import AnnotationIndex
from pretraining.sampler import Sampler

# (index, segments (n,), starts (n,), frame_size) -> (n,) int64
LabelRule = Callable[[AnnotationIndex, np.ndarray, np.ndarray, int], np.ndarray]
ALL = slice(None)


class Places(NamedTuple):
    """Frames of n examples, K of each, and their labels."""

    segments: np.ndarray  # (n, K) int64
    starts: np.ndarray  # (n, K) int64
    labels: np.ndarray  # (n,) int64


class Examples(Protocol):
    """Positions of the stream to examples of so many `frames`, of `frame_size` samples each."""

    frames: int
    frame_size: int

    def __call__(self, first: int, count: int, share: slice = ALL) -> Places:
        """Those from `first` on, `count` of them; of these only the `share`."""
        ...


class LabelledFrames(NamedTuple):
    """One frame, labelled by its annotations."""

    index: AnnotationIndex
    sampler: Sampler
    rule: LabelRule

    @property
    def frames(self) -> int:
        return 1

    @property
    def frame_size(self) -> int:
        return self.sampler.frame_size

    def __call__(self, first: int, count: int, share: slice = ALL) -> Places:
        segments, starts = (array[share] for array in self.sampler.frames(first, count))
        labels = self.rule(self.index, segments, starts, self.frame_size)
        return Places(segments[:, None], starts[:, None], labels)


class Context(NamedTuple):
    """Layout of a predictive example, in samples unless said otherwise.

    Attributes:
        size: frames of context. overlap: of neighbours among them.
        offset: frames left out between the context's last sample and the positive frame.
        negatives: frames.
    """

    frame_size: int
    size: int
    overlap: int
    offset: int
    negatives: int

    @property
    def starts(self) -> np.ndarray:
        """First samples of the context's frames and of the positive one, (size + 1,).

        The positive frame starts behind the last sample of the context, whatever the overlap; in
        the authors' code it may overlap it.
        """
        context = np.arange(self.size) * (self.frame_size - self.overlap)
        return np.append(context, context[-1] + self.frame_size * (1 + self.offset))

    @property
    def window(self) -> int:
        """Samples from the first frame's first to the positive frame's last."""
        return int(self.starts[-1]) + self.frame_size


class PredictedFrames(NamedTuple):
    """A context, then candidates: one frame that follows it among others; label: which one."""

    sampler: Sampler  # of windows
    context: Context

    @property
    def frames(self) -> int:
        return self.context.size + 1 + self.context.negatives

    @property
    def frame_size(self) -> int:
        return self.context.frame_size

    def __call__(self, first: int, count: int, share: slice = ALL) -> Places:
        segments, starts = (array[share] for array in self.sampler.frames(first, count))
        own = starts[:, None] + self.context.starts
        others = self.sampler.others(first, count, self.context.negatives, self.frame_size)
        other_segments, other_starts, place = (array[share] for array in others)
        context_segments = np.repeat(segments[:, None], self.context.size, axis=1)
        return Places(
            np.hstack([context_segments, _insert(segments, other_segments, place)]),
            np.hstack([own[:, :-1], _insert(own[:, -1], other_starts, place)]),
            place,
        )


def _insert(own: np.ndarray, others: np.ndarray, place: np.ndarray) -> np.ndarray:
    """`own` (n,) among `others` (n, k), at `place` (n,) of each row: (n, k + 1)."""
    inserted = np.empty((len(others), others.shape[1] + 1), others.dtype)
    here = np.arange(inserted.shape[1]) == place[:, None]
    inserted[here], inserted[~here] = own, others.ravel()
    return inserted
