"""One fine-tuned network, from a stretch of a recording in millivolt to its probabilities."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from finetuning.batches import normalize, pad_front, signal_mask
from finetuning.evaluation import choose_targets
from finetuning.predict.band import band_pass
from finetuning.recipe import average_over_shifts
from models import Classifier
from recordings.formats import Recording
from recordings.resampling import to_microvolt
from utils.cli import UserError
from utils.contract import Contract
from utils.datasets import DATA_SETS
from utils.engine import Batch, Hardware, evaluate
from utils.weights import build_classifier, load_strictly, read_weights


class Member(NamedTuple):
    """A classifier, what its weights file says of its input, over how many shifts of that its
    answers are averaged, and the band in Hz that signals are cut to."""

    model: Classifier
    contract: Contract
    hardware: Hardware
    tta: int
    band: tuple[float, float] | None

    @classmethod
    def load(cls, path: Path, hardware: Hardware, tta: int = 1, in_band: bool = False) -> "Member":
        """Read what `finetuning.trainer` wrote.

        Args:
            in_band: whether signals are cut to the band of the data set, where that is known.

        Raises:
            UserError: it is not such a file.
        """
        tensors, contract = read_weights(path)
        if contract.task != "classification":
            raise UserError(
                f"{path} was trained for {contract.task}; name a best_model.safetensors of "
                "finetuning.trainer"
            )
        model = build_classifier(contract)
        load_strictly(model, tensors, path)
        known = DATA_SETS.get(contract.dataset)
        band = known.band if known and in_band else None
        return cls(hardware.place(model).eval(), contract, hardware, tta, band)

    def input(self, signal: np.ndarray, fs: float) -> tuple[Tensor, int]:
        """A stretch (samples, leads) in mV as the network takes it, and how much of that is signal.

        It is cut to the band, resampled (by a polyphase filter, as `finetuning.prepare` does by
        default), normalised and padded in front to (1, C, T); of a longer one the end is looked at.
        """
        contract = self.contract
        signal = band_pass(signal, fs, self.band) if self.band else signal
        microvolt, _ = to_microvolt(Recording(signal, fs), contract.fs, "polyphase", "constant")
        length = min(len(microvolt), contract.frame_size)
        x = torch.from_numpy(pad_front(microvolt, contract.frame_size))[None] / 1000
        mask = signal_mask(torch.tensor([length]), contract.frame_size)
        return normalize(x, mask, contract.mean, contract.sd), length

    def evidence(self, signal: np.ndarray, fs: float) -> np.ndarray:
        """For each class along a stretch, (classes, parts) in equal parts of it, in logits.

        Their mean over the padded input, plus a constant, is the class's logit (Zhou et al. 2016).
        Of classes that exclude each other only differences count: it is against their mean.
        """
        x, inside = self.input(signal, fs)
        with torch.inference_mode(), self.hardware.autocast():
            found = self.model.evidence(x.to(self.hardware.device))
        found = self.model.by_sample(found, x.shape[-1])[0, :, -inside:].cpu().numpy()
        return found if self.contract.multi_label else found - found.mean(0)

    def probabilities(self, signals: Sequence[np.ndarray], fs: float) -> np.ndarray:
        """Of each stretch, (n, classes) float32, calibrated."""
        inputs = torch.cat([self.input(signal, fs)[0] for signal in signals])
        batch = Batch(inputs.to(self.hardware.device), torch.zeros(len(inputs)), len(inputs))
        logits, _ = evaluate(average_over_shifts(self.model, self.tta), [batch], self.hardware)
        targets = choose_targets(self.contract.multi_label)
        return targets.probabilities(logits / self.contract.temperature).numpy()
