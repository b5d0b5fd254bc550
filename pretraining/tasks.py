"""Pretraining objectives: the frames of an example, its label, the network, the loss.

A new objective is a class here, its rule in `pretraining.labels`, and a row in `TASKS`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from models import Classifier
from pretraining import labels
from pretraining.cpc import CPC
from pretraining.icentia11k.index import AnnotationIndex
from pretraining.sampler import Sampler
from recordings.annotations import BEAT_CLASSES, HEART_RATE_CLASSES, RHYTHM_CLASSES
from recordings.wfdb_files import ICENTIA_FS
from utils.cli import UserError


class Examples(NamedTuple):
    """Frames of n examples, K of each, and the labels of the examples."""

    segments: np.ndarray  # (n, K) int64
    starts: np.ndarray  # (n, K) int64
    labels: np.ndarray  # (n,) int64


@dataclass(frozen=True)
class Task:
    """An objective. Its fields are named as the flags of `pretraining.trainer` that set them.

    Unless a subclass says otherwise, an example is one frame, and `label_frames` gives the labels,
    (n,) int64, of frames that start in (n,) segments at (n,) samples.
    """

    frame_size: int  # samples
    classes: ClassVar[tuple[str, ...]] = ()  # of the logits; empty where the label is a position
    annotated: ClassVar[str] = "beats"  # or "rhythms": what it needs; empty where nothing
    num_frames = 1  # of an example
    num_outputs = property(lambda self: len(self.classes))  # logits of an example
    window = property(lambda self: self.frame_size)  # samples that an example takes in one stretch

    @classmethod
    def flags(cls) -> list[str]:
        """Names of the flags that only this objective takes."""
        return [field.name for field in fields(cls) if field.name != "frame_size"]

    def examples(
        self, index: AnnotationIndex, sampler: Sampler, first: int, count: int, share=slice(None)
    ) -> Examples:
        """The `share` (a slice) of the `count` examples from position `first` of the stream on. The
        sampler draws windows of `self.window` samples."""
        segments, starts = (array[share] for array in sampler.frames(first, count))
        labels = self.label_frames(index, segments, starts)
        return Examples(segments[:, None], starts[:, None], labels)

    def model(self, encoder: nn.Module, generator: Generator) -> nn.Module:
        """Network around an encoder: (B, num_frames, frame_size) -> (B, num_outputs) logits."""
        return Classifier(encoder, self.num_outputs, generator)

    @staticmethod
    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        """Mean loss of (B, num_outputs) logits against (B,) labels."""
        return F.cross_entropy(logits, labels)


class Beat(Task):
    classes = BEAT_CLASSES

    def label_frames(self, index, segments, starts):
        annotations = index.arrays["beat_ends"], index.arrays["beat_codes"]
        within = index.within("beats", segments)
        try:
            return labels.beat_labels(*annotations, within, starts, self.frame_size)
        except ValueError:
            raise UserError(f"{index.folder} is damaged (unknown beat class); delete it") from None


class Rhythm(Task):
    classes = RHYTHM_CLASSES
    annotated = "rhythms"

    def label_frames(self, index, segments, starts):
        annotations = index.arrays["rhythm_ends"], index.arrays["rhythm_codes"]
        within = index.within("rhythms", segments)
        return labels.rhythm_labels(*annotations, within, starts, self.frame_size)


class HeartRate(Task):
    classes = HEART_RATE_CLASSES

    def label_frames(self, index, segments, starts):
        ends, within = index.arrays["beat_ends"], index.within("beats", segments)
        return labels.heart_rate_labels(ends, within, starts, self.frame_size, ICENTIA_FS)


@dataclass(frozen=True)
class ContextPrediction(Task):
    """CPC: tell the frame that follows a context from negatives. An example is the context and then
    the candidates; its label is the positive one's position."""

    context_size: int  # frames
    context_overlap: int  # samples shared by neighbouring frames of the context
    positive_offset: int  # frames left out between the context and the positive one
    ns: int  # negatives
    annotated: ClassVar[str] = ""

    num_frames = property(lambda self: self.context_size + self.num_outputs)
    num_outputs = property(lambda self: 1 + self.ns)
    window = property(lambda self: int(self.offsets[-1]) + self.frame_size)

    @property
    def offsets(self) -> np.ndarray:
        """First samples of the context's frames and of the positive one, (context_size + 1,).
        Unlike in the authors' code, the positive frame never overlaps the context."""
        context = np.arange(self.context_size) * (self.frame_size - self.context_overlap)
        return np.append(context, context[-1] + self.frame_size * (1 + self.positive_offset))

    def examples(self, index, sampler, first, count, share=slice(None)):
        segments, starts = (array[share] for array in sampler.frames(first, count))
        negatives = sampler.negatives(first, count, self.ns, self.frame_size)
        *negatives, position = (array[share] for array in negatives)
        # The context, and the positive frame as every candidate; then the negatives.
        segments = np.repeat(segments[:, None], self.num_frames, axis=1)
        starts = starts[:, None] + np.pad(self.offsets, (0, self.ns), "edge")
        negative = np.arange(self.num_frames) - self.context_size != position[:, None]
        negative[:, : self.context_size] = False
        segments[negative], starts[negative] = map(np.ravel, negatives)
        return Examples(segments, starts, position)

    def model(self, encoder, generator):
        return CPC(encoder, self.context_size, generator)


TASKS = {"beat": Beat, "rhythm": Rhythm, "hr": HeartRate, "cpc": ContextPrediction}


def build_task(name: str, settings: Mapping[str, Any]) -> Task:
    """The objective `name`; of `settings`, such as all flags, it takes those it has fields for."""
    task = TASKS[name]
    return task(**{field.name: settings[field.name] for field in fields(task)})
