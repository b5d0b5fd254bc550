"""Sampling of frames: patients in shuffled order, random positions, all from (seed, position).

The stream is endless and consists of passes. A pass takes every patient once, in a new order, and
`samples_per_patient` frames of each. The frames of 16 patients at a time are mixed.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial

import numpy as np

from utils.run import rng

MIXED_PATIENTS = 16


class Sampler:
    """Deterministic stream of frames, of which any stretch can be drawn at any time.

    Args:
        patients: for each patient the numbers of its segments, (segments,) int.
        samples: length of every segment of the data set, by number.
        frame_size: samples; none of the patients' segments is shorter.
        seed: numbers; the streams of one run differ in the later ones.
    """

    def __init__(
        self, patients: Sequence[np.ndarray], samples: np.ndarray, frame_size: int,
        samples_per_patient: int, seed: Sequence[int],
    ):  # fmt: skip
        self.patients, self.samples, self.frame_size = patients, samples, frame_size
        self.samples_per_patient, self.seed = samples_per_patient, tuple(seed)
        self.pass_length = len(patients) * samples_per_patient  # frames
        self._group = lru_cache(maxsize=2)(self._draw_group)
        self._negatives = lru_cache(maxsize=2)(self._draw_negatives)

    def __reduce__(self):
        stream = self.samples_per_patient, self.seed
        return Sampler, (self.patients, self.samples, self.frame_size, *stream)

    def frames(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Segment numbers and start samples, (count,) int64 each, from position `first` on."""
        return self._stretch(self._group, first, count)

    def negatives(
        self, first: int, count: int, number: int, size: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Segment numbers and start samples, (count, number) each, of frames to contrast the frames
        from position `first` on with, and (count,) places of the latter among them. They are of
        `size` samples, and uniform over the segments of the position's 16 patients."""
        return self._stretch(partial(self._negatives, number, size), first, count)

    def _stretch(self, draw: Callable, first: int, count: int) -> tuple[np.ndarray, ...]:
        """Positions from `first` on, of arrays that `draw(cycle, group)` makes for each group."""
        parts = []
        while count:
            cycle, place = divmod(first, self.pass_length)
            group, offset = divmod(place, MIXED_PATIENTS * self.samples_per_patient)
            part = [array[offset : offset + count] for array in draw(cycle, group)]
            parts.append(part)
            first += len(part[0])
            count -= len(part[0])
        return tuple(map(np.concatenate, zip(*parts, strict=True)))

    def _members(self, cycle: int, group: int) -> list[np.ndarray]:
        """Segments of each patient of a group."""
        order = rng(*self.seed, cycle).permutation(len(self.patients))
        group = order[group * MIXED_PATIENTS :][:MIXED_PATIENTS]
        return [self.patients[member] for member in group]

    def _draw_group(self, cycle: int, group: int) -> np.ndarray:
        """Frames of one group of patients, mixed; (2, frames): segment number, start."""
        generator = rng(*self.seed, cycle, group)
        size, members = self.samples_per_patient, self._members(cycle, group)
        segments = np.concatenate([generator.choice(segments, size) for segments in members])
        starts = generator.integers(0, self.samples[segments] - self.frame_size, endpoint=True)
        return generator.permutation(np.stack([segments, starts]), axis=1)

    def _draw_negatives(self, number: int, size: int, cycle: int, group: int) -> tuple:
        generator = rng(*self.seed, cycle, group, 1)
        members = self._members(cycle, group)
        shape = len(members) * self.samples_per_patient, number
        segments = generator.choice(np.concatenate(members), shape)
        starts = generator.integers(0, self.samples[segments] - size, endpoint=True)
        return segments, starts, generator.integers(0, number, shape[0], endpoint=True)
