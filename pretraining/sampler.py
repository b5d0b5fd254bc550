"""Which frame comes next: patients in shuffled order, random places, all from (seed, position).

The stream is endless and made of passes; a pass takes every patient once, in an order of its own,
and `samples_per_patient` frames of each. The frames of 16 patients at a time are mixed.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from utils.runlog import rng

MIXED_PATIENTS = 16


class Sampler:
    """Deterministic stream of frames; any stretch of it can be asked for at any time.

    Args:
        patients: for each patient the numbers of its segments, (segments,) int.
        samples: length of every segment of the data set, by number.
        frame_size: samples; no segment given is shorter.
        seed: several numbers tell streams of one run apart.
    """

    def __init__(
        self,
        patients: Sequence[np.ndarray],
        samples: np.ndarray,
        frame_size: int,
        samples_per_patient: int,
        seed: Sequence[int],
    ):
        self.patients = patients
        self.samples = samples
        self.frame_size = frame_size
        self.samples_per_patient = samples_per_patient
        self.seed = tuple(seed)
        self._group = lru_cache(maxsize=2)(self._draw_group)

    def __reduce__(self):
        return Sampler, (
            self.patients, self.samples, self.frame_size, self.samples_per_patient, self.seed,
        )  # fmt: skip

    @property
    def pass_length(self) -> int:
        """Frames of one pass over the patients."""
        return len(self.patients) * self.samples_per_patient

    def frames(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Segment numbers and start samples, (count,) int64 each, from position `first` on."""
        group_length = MIXED_PATIENTS * self.samples_per_patient
        parts = []
        while count:
            cycle, place = divmod(first, self.pass_length)
            group, offset = divmod(place, group_length)
            part = self._group(cycle, group)[:, offset : offset + count]
            parts.append(part)
            first += part.shape[1]
            count -= part.shape[1]
        segments, starts = np.concatenate(parts, axis=1)
        return segments, starts

    def _draw_group(self, cycle: int, group: int) -> np.ndarray:
        """Frames of one group of patients, mixed; (2, frames): segment number, start."""
        order = rng(*self.seed, cycle).permutation(len(self.patients))
        members = order[group * MIXED_PATIENTS : (group + 1) * MIXED_PATIENTS]
        generator = rng(*self.seed, cycle, group)
        size = self.samples_per_patient
        segments = np.concatenate(
            [generator.choice(self.patients[member], size) for member in members]
        )
        starts = generator.integers(0, self.samples[segments] - self.frame_size, endpoint=True)
        return generator.permutation(np.stack([segments, starts]), axis=1)
