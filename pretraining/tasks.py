"""Table of pretraining objectives; a new one is a row."""

from collections.abc import Callable
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from pretraining import labels
from pretraining.batches import LabelRule
from utils.annotations import BEAT_CLASSES


class Task(NamedTuple):
    """Classes in the order of the logits, the rule that labels frames, whether that needs
    annotations, and the loss of (B, classes) logits against (B,) labels."""

    classes: tuple[str, ...]
    label_rule: LabelRule
    annotated: bool
    loss: Callable[[Tensor, Tensor], Tensor]


def _beat(annotations, starts, frame_size):
    return labels.beat_labels(
        annotations["beat_ends"], annotations["beat_codes"], starts, frame_size
    )


TASKS = {
    "beat": Task(BEAT_CLASSES, _beat, annotated=True, loss=F.cross_entropy),
}
