"""What a run ends with: the chosen epoch's temperature, predictions and scores."""

import argparse
from dataclasses import replace

from torch import Tensor

from finetuning.batches import Recordings, batches
from finetuning.calibration import fit_temperature
from finetuning.data import Data
from finetuning.shifting import over_shifts
from finetuning.targets import Targets
from utils.calibration_metrics import calibration_errors, calibration_scores
from utils.card import write_card
from utils.files import write_json
from utils.names import BEST, CARD, SCORES
from utils.predictions import write_predictions
from utils.training import Training
from utils.weights import load_strictly, read_weights, save_weights


def conclude(args: argparse.Namespace, data: Data, training: Training, epoch: int) -> None:
    """Predict all parts with the saved model, calibrated on the validation recordings, if there are
    any; write the temperature into its file, then predictions and, last, scores.

    Nothing depends on what an earlier call has written: after an interruption, once more.

    Args:
        epoch: that was chosen.
    """
    best = args.job_dir / BEST
    tensors, contract = read_weights(best)
    load_strictly(training.judged, tensors, best)
    answers = {name: forecast(args, part, training, args.tta) for name, part in data.parts.items()}
    temperature = fit_temperature(*answers["val"], data.targets) if "val" in answers else 1.0
    save_weights(best, tensors, replace(contract, temperature=temperature))
    scores = {
        name: evaluate(args, data, name, *answer, temperature) for name, answer in answers.items()
    }
    write_card(args.job_dir / CARD, best, about_data(data), scores)
    write_json(args.job_dir / SCORES, {"epoch": epoch, "temperature": temperature, **scores})
    for name, score in scores.items():
        print(describe_scores(name, score, data.targets))
    if "val" in scores:
        print(describe_temperature(temperature, scores["val"]))


def evaluate(
    args: argparse.Namespace,
    data: Data,
    name: str,
    logits: Tensor,
    labels: Tensor,
    temperature: float,
) -> dict:
    """Write the table of one part of the data, return its scores; of recordings that were not
    trained on also those without temperature."""
    targets, recordings, true = data.targets, data.parts[name], labels.numpy()
    probabilities = targets.probabilities(logits / temperature).numpy()
    out = args.job_dir / f"{name}_predictions.csv"
    write_predictions(out, recordings.record_ids, recordings.classes, recordings.y, probabilities)
    scores = targets.scores(true, probabilities, recordings.classes)
    scores |= calibration_scores(true, probabilities)
    if name != "train":
        before = targets.probabilities(logits).numpy()
        scores["uncalibrated"] = calibration_errors(true, before)
    return scores


def forecast(
    args: argparse.Namespace, recordings: Recordings, training: Training, shifts: int = 1
) -> tuple[Tensor, Tensor]:
    """Logits, averaged over so many shifts, and labels of all recordings."""
    model = over_shifts(training.judged, shifts)
    return training.predict(model, batches(recordings, args.batch_size))


def about_data(data: Data) -> dict[str, str]:
    """For the card: version of the labels, recordings and patients of each part."""
    described = {"labels": str(data.manifest.get("labels", "unknown"))}
    numbers = data.manifest.get("patients") or {}
    for name, part in data.parts.items():
        patients = {numbers[record] for record in part.record_ids if record in numbers}
        of = f" of {len(patients):,} patients" if patients else ""
        described[f"recordings, {name}"] = f"{len(part):,}{of}"
    return described


def describe_scores(name: str, scores: dict, targets: Targets) -> str:
    """`test: macro F1 0.731, CinC-3 0.770 (A 0.711, N 0.898, …)`."""
    shown = [(label, scores[key]) for key, label in targets.shown.items()]
    known = ", ".join(f"{label} {value:.3f}" for label, value in shown if value is not None)
    each = ", ".join(f"{label} {value:.3f}" for label, value in scores["f1"].items())
    return f"{name}: {known} ({each})"


def describe_temperature(temperature: float, scores: dict) -> str:
    """`temperature 1.42: ECE on validation 0.081 -> 0.034`."""
    before, after = scores["uncalibrated"]["ece"], scores["ece"]
    return f"temperature {temperature:.2f}: ECE on validation {before:.3f} -> {after:.3f}"
