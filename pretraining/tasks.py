"""Table of pretraining objectives; a new one is a row."""

from argparse import Namespace
from collections.abc import Callable
from typing import NamedTuple

import torch.nn.functional as F
from torch import Generator, Tensor, nn

from models import Classifier
from pretraining import labels
from pretraining.cpc import CPC
from pretraining.examples import Context, Examples, LabelledFrames, LabelRule, PredictedFrames
from pretraining.icentia11k.index import AnnotationIndex
from pretraining.sampler import Sampler
from recordings.annotations import BEAT_CLASSES, HEART_RATE_CLASSES, RHYTHM_CLASSES
from recordings.wfdb_files import ICENTIA_FS
from utils.cli import UserError
from utils.names import CONTEXT_FLAGS


class Task(NamedTuple):
    """An objective; its functions take the flags of `pretraining.trainer`.

    Attributes:
        classes: in the order of the logits; none where the answer is a place.
        annotated: whether it needs annotations.
        layout: flags that say which frames an example has.
        frames: of an example. answers: logits.
        window: samples that an example takes from its segment in one stretch.
        examples: what is made of the sampler's windows.
        model: around an encoder, (B, K, T) -> (B, answers) logits.
        loss: of logits against (B,) labels.
    """

    classes: tuple[str, ...]
    annotated: bool
    layout: tuple[str, ...]
    frames: Callable[[Namespace], int]
    answers: Callable[[Namespace], int]
    window: Callable[[Namespace], int]
    examples: Callable[[AnnotationIndex, Sampler, Namespace], Examples]
    model: Callable[[nn.Module, Namespace, Generator], nn.Module]
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy


def _classification(classes: tuple[str, ...], rule: LabelRule) -> Task:
    """Tell the class of a frame."""
    return Task(
        classes,
        annotated=True,
        layout=(),
        frames=lambda args: 1,
        answers=lambda args: len(classes),
        window=lambda args: args.frame_size,
        examples=lambda index, sampler, args: LabelledFrames(index, sampler, rule),
        model=lambda encoder, args, generator: Classifier(encoder, len(classes), generator),
    )


def _beat(index, segments, starts, frame_size):
    ends, codes = index.arrays["beat_ends"], index.arrays["beat_codes"]
    within = index.within("beats", segments)
    try:
        return labels.beat_labels(ends, codes, starts, frame_size, within)
    except ValueError:
        raise UserError(f"{index.folder} is damaged (a beat of no class); delete it") from None


def _rhythm(index, segments, starts, frame_size):
    ends, codes = index.arrays["rhythm_ends"], index.arrays["rhythm_codes"]
    return labels.rhythm_labels(ends, codes, starts, frame_size, index.within("rhythms", segments))


def _heart_rate(index, segments, starts, frame_size):
    ends, within = index.arrays["beat_ends"], index.within("beats", segments)
    return labels.heart_rate_labels(ends, starts, frame_size, ICENTIA_FS, within)


def _context(args: Namespace) -> Context:
    return Context(
        args.frame_size, args.context_size, args.context_overlap, args.positive_offset, args.ns
    )


TASKS = {
    "beat": _classification(BEAT_CLASSES, _beat),
    "rhythm": _classification(RHYTHM_CLASSES, _rhythm),
    "hr": _classification(HEART_RATE_CLASSES, _heart_rate),
    "cpc": Task(
        classes=(),
        annotated=False,
        layout=CONTEXT_FLAGS,
        frames=lambda args: args.context_size + 1 + args.ns,
        answers=lambda args: 1 + args.ns,
        window=lambda args: _context(args).window,
        examples=lambda index, sampler, args: PredictedFrames(sampler, _context(args)),
        model=lambda encoder, args, generator: CPC(encoder, args.context_size, generator),
    ),
}
