"""From logits to probabilities and scores; the files that a finished run leaves."""

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from textwrap import shorten
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import Tensor

from finetuning.batches import Recordings
from utils import metrics
from utils.files import write_json
from utils.run import BEST, CARD, SCORES
from utils.weights import read_weights, save_weights, write_card

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
FOLDS = 5  # of the validation recordings, to try a temperature on others than it was fitted to
FEW, FEW_OF_CLASS = 50, 5  # with fewer validation recordings chance decides what they choose
Loss = Callable[[Tensor, Tensor], Tensor]  # of logits and labels: mean over the recordings


class Targets(NamedTuple):
    """What a network learns to tell of a recording; logits and probabilities are (n, classes)."""

    columns: tuple[str, ...]  # of the history, for the validation recordings
    summary: dict[str, str]  # scores that are printed at the end, and their names
    loss: Loss
    probabilities: Callable[[Tensor], Tensor]  # of logits
    num_correct: Callable[[Tensor, Tensor], Tensor]  # of logits and labels


def _correct_recordings(logits: Tensor, labels: Tensor) -> Tensor:
    labels = labels.argmax(1) if labels.ndim == 2 else labels  # the larger part of a mixture
    return (logits.argmax(1) == labels).float().sum()


def _correct_shares(logits: Tensor, labels: Tensor) -> Tensor:
    return ((logits > 0) == (labels > 0.5)).float().mean(1).sum()


# One class to a recording; labels are class numbers (n,) int64.
SINGLE_LABEL = Targets(
    ("val_loss", "val_acc", "macro_f1", "cinc3", "auc"),
    {"macro_f1": "macro F1", "cinc3": "CinC-3"},
    F.cross_entropy, partial(torch.softmax, dim=1), _correct_recordings,
)  # fmt: skip
# Any number; labels are (n, classes) float32 of 0 and 1. Correct is the share of right classes.
MULTI_LABEL = Targets(
    ("val_loss", "val_acc", "macro_f1", "f_max", "auc"),
    {"macro_f1": "macro F1", "auc": "macro AUC", "f_max": "F-max", "f_beta": "F-beta",
     "g_beta": "G-beta"},
    F.binary_cross_entropy_with_logits, torch.sigmoid, _correct_shares,
)  # fmt: skip


def choose_targets(multi_label: bool) -> Targets:
    """Targets of a prepared set or a weights file."""
    return MULTI_LABEL if multi_label else SINGLE_LABEL


def validation_scores(targets: Targets, logits: Tensor, labels: Tensor, classes: list) -> dict:
    """Scores of the validation recordings; among them `columns` of the targets."""
    scores = metrics.scores(labels.numpy(), targets.probabilities(logits).numpy(), classes)
    return {**scores, "val_loss": targets.loss(logits, labels).item(), "val_acc": scores["acc"]}


def fit_temperature(logits: Tensor, labels: Tensor, loss_function: Loss) -> float:
    """Temperature that minimises the loss of `logits / temperature`, (n, classes), on recordings
    that were not trained on (Guo et al. 2017); the most probable class stays the same.

    Added to the loss is (log T)² / 2n, a prior around 1 that weighs about as much as one recording
    and decides where the recordings do not: if all logits are equal, or all answers right.
    """
    labels = labels.double() if labels.is_floating_point() else labels

    def penalized_loss(log_t: float) -> float:
        loss = loss_function(logits.double() / np.exp(log_t), labels).item()
        return loss + log_t**2 / (2 * len(logits))

    bounds = np.log([MIN_TEMPERATURE, MAX_TEMPERATURE])
    result = minimize_scalar(penalized_loss, bounds=bounds, options={"xatol": 1e-7})
    return round(float(np.exp(result.x)), 4)


def calibrate(logits: Tensor, labels: Tensor, loss_function: Loss) -> tuple[float, str]:
    """The temperature of `fit_temperature`, and a note on it, if any. It is 1 instead where
    temperatures fitted to the other folds do not lower the loss of the folds, and where few
    recordings would make answers more confident: four right by chance are so in every fold."""
    n, temperature, gain = len(logits), fit_temperature(logits, labels, loss_function), 0.0
    for fold in range(min(FOLDS, n) if n > 1 else 0):
        part = torch.arange(n) % FOLDS == fold
        fitted = fit_temperature(logits[~part], labels[~part], loss_function)
        before, after = (loss_function(logits[part] / t, labels[part]) for t in (1, fitted))
        gain += float((before - after) * part.sum())
    if not gain > 0 or (temperature < 1 and n < FEW):
        return 1.0, f" (the fitted {temperature:.2f} may not serve other recordings)"
    at_bound = not MIN_TEMPERATURE * 1.01 < temperature < MAX_TEMPERATURE / 1.01
    return temperature, " (the bound of what is tried; check the labels)" * at_bound


def warn_of_few(y: np.ndarray, classes: list[str]) -> None:
    """Say on stderr if validation recordings `y`, as of `Recordings`, leave choices to chance."""
    counts = zip(classes, y.sum(0), strict=True)
    few = [f"{count} of {name}" for name, count in counts if 0 < count < FEW_OF_CLASS]
    if few or len(y) < FEW:
        words = shorten(", ".join([f"{len(y)} in all", *few]), 100)
        print(f"few validation recordings ({words}): below {FEW}, or {FEW_OF_CLASS} of a class, "
              "chance decides the epoch and the temperature", file=sys.stderr)  # fmt: skip


def write_results(
    job_dir: Path, epoch: int, targets: Targets, parts: dict[str, Recordings],
    outputs: dict[str, tuple[Tensor, Tensor]], manifest: dict[str, Any],
) -> None:  # fmt: skip
    """Calibrate on the validation recordings, if there are any; write the temperature into the
    weights file, then the predictions, the model card and, last, the scores. It can be repeated
    after an interruption, for nothing depends on what an earlier call has written. `outputs` are
    the logits and labels of each part, `manifest` is that of the training set."""
    tensors, metadata = read_weights(job_dir / BEST)
    temperature, note = calibrate(*outputs["val"], targets.loss) if "val" in outputs else (1.0, "")
    save_weights(job_dir / BEST, tensors, replace(metadata, temperature=temperature))
    scores, data = {}, {"labels": manifest.get("labels")}
    for name, (logits, labels) in outputs.items():
        part, true = parts[name], labels.numpy()
        probabilities = targets.probabilities(logits / temperature).numpy()
        table = job_dir / f"{name}_predictions.csv"
        metrics.write_predictions(table, part.record_ids, part.classes, part.y, probabilities)
        scores[name] = metrics.scores(true, probabilities, part.classes)
        scores[name] |= metrics.calibration_scores(true, probabilities)
        if name != "train":
            raw = targets.probabilities(logits).numpy()
            scores[name]["uncalibrated"] = metrics.calibration_errors(true, raw)
        data[f"recordings, {name}"] = f"{len(part):,}"
        print(f"{name}: {summarize(scores[name], targets)}")
    write_card(job_dir / CARD, job_dir / BEST, data, scores)
    write_json(job_dir / SCORES, {"epoch": epoch, "temperature": temperature, **scores})
    if "val" in scores:
        before, after = scores["val"]["uncalibrated"]["ece"], scores["val"]["ece"]
        print(f"temperature {temperature:.2f}{note}: ECE on validation {before:.3f} -> {after:.3f}")


def summarize(scores: dict[str, Any], targets: Targets) -> str:
    """`macro F1 0.731, CinC-3 0.770 (A 0.711, N 0.898, …), without ~: no recording`."""
    known = {label: scores[key] for key, label in targets.summary.items()}
    overall, by_class = (
        ", ".join(f"{name} {value:.3f}" for name, value in values.items() if value is not None)
        for values in (known, scores["f1"])
    )
    absent = ", ".join(name for name, value in scores["f1"].items() if value is None)
    return f"{overall} ({by_class})" + f", without {absent}: no recording" * bool(absent)
