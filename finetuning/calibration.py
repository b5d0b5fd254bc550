"""A temperature for the logits, so that probabilities are as often right as they say."""

import numpy as np
from torch import Tensor

from finetuning.targets import Targets

LOWEST, HIGHEST = 0.05, 20.0


def fit_temperature(logits: Tensor, labels: Tensor, targets: Targets) -> float:
    """What to divide logits by, with the least loss on recordings that were not trained on (Guo et
    al. 2017); the most probable class stays what it is.

    It lies within `LOWEST` and `HIGHEST`. Added to the loss is (log T)² / 2n, a guess of 1 that
    weighs about as much as one recording: it decides where the recordings do not, as where all
    logits are equal (1) or all answers right (no temperature is too low for the loss); of hundreds
    of recordings it moves the temperature by a hundredth or so.

    Args:
        logits: (n, classes). labels: as `targets` has them.
    """
    from scipy.optimize import minimize_scalar

    logits = logits.double()
    labels = labels.double() if labels.is_floating_point() else labels

    def loss(log_t: float) -> float:
        fit = targets.loss(logits / np.exp(log_t), labels).item()
        return fit + log_t**2 / (2 * len(logits))

    bounds = np.log([LOWEST, HIGHEST])
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-7})
    return round(float(np.exp(found.x)), 4)
