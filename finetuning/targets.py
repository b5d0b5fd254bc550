"""The kinds of target: one class to a recording, or any number of them."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from utils import metrics


class Targets(NamedTuple):
    """What follows from how many classes a recording has.

    Attributes:
        labels: (n, classes) of 0 and 1 to what the network learns.
        soften: labels, and the names of the classes, to (n, classes) float32, which can be mixed.
        harden: mixed ones to labels.
        loss: mean loss of logits (B, classes) and labels.
        probabilities: (n, classes) from logits.
        scores: see `utils.metrics`.
        history: columns by epoch, and which score they hold.
        shown: scores to print at the end, and what they are called.
    """

    labels: Callable[[np.ndarray], np.ndarray]
    soften: Callable[[Tensor, list[str]], Tensor]
    harden: Callable[[Tensor], Tensor]
    loss: Callable[[Tensor, Tensor], Tensor]
    probabilities: Callable[[Tensor], Tensor]
    scores: Callable[..., dict]
    history: dict[str, str]
    shown: dict[str, str]


SINGLE_LABEL = Targets(
    labels=lambda y: y.argmax(1),
    soften=lambda labels, classes: F.one_hot(labels, len(classes)).float(),
    harden=lambda mixed: mixed.argmax(1),
    loss=F.cross_entropy,
    probabilities=lambda logits: logits.softmax(1),
    scores=metrics.scores,
    history={"val_acc": "accuracy", "f1": "macro_f1", "cinc3": "cinc3", "auc": "auc"},
    shown={"macro_f1": "macro F1", "cinc3": "CinC-3"},
)
MULTI_LABEL = Targets(
    labels=lambda y: y.astype(np.float32),
    soften=lambda labels, classes: labels,
    harden=lambda mixed: (mixed > 0.5).to(torch.float32),
    loss=F.binary_cross_entropy_with_logits,
    probabilities=lambda logits: logits.sigmoid(),
    scores=metrics.multi_label_scores,
    history={"val_acc": "accuracy", "f1": "macro_f1", "f_max": "f_max", "auc": "auc"},
    shown={
        "macro_f1": "macro F1", "auc": "macro AUC", "f_max": "F-max", "f_beta": "F-beta",
        "g_beta": "G-beta",
    },
)  # fmt: skip
TARGETS = {False: SINGLE_LABEL, True: MULTI_LABEL}  # by whether a set is multi-label
