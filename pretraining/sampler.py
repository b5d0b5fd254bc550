"""Sampling of frames: patients in shuffled order, random positions, all from (seed, position).

The stream is endless and consists of passes. A pass takes every patient once, in a new order, and
`samples_per_patient` frames of each. The frames of 16 patients at a time are mixed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np

from utils.run import rng

MIXED_PATIENTS = 16


@dataclass(frozen=True, eq=False)
class Sampler:
    """Deterministic stream of frames, of which any stretch can be drawn at any time."""

    patients: Sequence[np.ndarray]  # numbers of the segments of each, (segments,) int
    samples: np.ndarray  # length of every segment of the data set, by number
    frame_size: int  # samples; none of the patients' segments is shorter
    samples_per_patient: int
    seed: tuple[int, ...]  # the streams of one run differ in the later numbers

    def frames(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Segment numbers and start samples, (count,) int64 each, from position `first` on."""
        return self._stretch(_draw_frames, first, count)

    def negatives(
        self, first: int, count: int, number: int, size: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Segment numbers and start samples, (count, number) each, of frames to contrast the frames
        from position `first` on with, and (count,) places of the latter among them. They are of
        `size` samples, and uniform over the segments of the position's 16 patients."""
        return self._stretch(partial(_draw_negatives, number, size), first, count)

    def _stretch(self, draw: Callable, first: int, count: int) -> tuple[np.ndarray, ...]:
        """Positions from `first` on, of the arrays that `draw` makes for each group of patients."""
        parts = []
        while count:
            cycle, place = divmod(first, len(self.patients) * self.samples_per_patient)
            group, offset = divmod(place, MIXED_PATIENTS * self.samples_per_patient)
            part = [array[offset : offset + count] for array in draw(self, cycle, group)]
            parts.append(part)
            first += len(part[0])
            count -= len(part[0])
        return tuple(map(np.concatenate, zip(*parts, strict=True)))

    def members(self, cycle: int, group: int) -> list[np.ndarray]:
        """Segments of each patient of a group."""
        order = rng(*self.seed, cycle).permutation(len(self.patients))
        first = group * MIXED_PATIENTS
        return [self.patients[member] for member in order[first : first + MIXED_PATIENTS]]


@lru_cache(maxsize=4)  # two groups each of those who train and validate
def _draw_frames(sampler: Sampler, cycle: int, group: int) -> np.ndarray:
    """Frames of one group of patients, mixed; (2, frames): segment number, start."""
    generator = rng(*sampler.seed, cycle, group)
    size, members = sampler.samples_per_patient, sampler.members(cycle, group)
    segments = np.concatenate([generator.choice(segments, size) for segments in members])
    starts = generator.integers(0, sampler.samples[segments] - sampler.frame_size, endpoint=True)
    return generator.permutation(np.stack([segments, starts]), axis=1)


@lru_cache(maxsize=4)
def _draw_negatives(number: int, size: int, sampler: Sampler, cycle: int, group: int) -> tuple:
    generator = rng(*sampler.seed, cycle, group, 1)
    members = sampler.members(cycle, group)
    shape = len(members) * sampler.samples_per_patient, number
    segments = generator.choice(np.concatenate(members), shape)
    starts = generator.integers(0, sampler.samples[segments] - size, endpoint=True)
    return segments, starts, generator.integers(0, number, shape[0], endpoint=True)
