"""Class probabilities of single recordings, from a fine-tuned weights file."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from finetuning.normalising import normalise
from finetuning.shifting import over_shifts
from finetuning.targets import TARGETS
from utils.cli import UserError
from utils.contract import Contract
from utils.encoders import Classifier, build_encoder
from utils.engine import Batch, Hardware, choose_hardware, predict
from utils.recordings import Recording, check_signal, millivolt
from utils.resampling import to_microvolt
from utils.weights import load_strictly, read_weights
from utils.wfdb_io import Unusable


class Predictor(NamedTuple):
    """A classifier, and what its weights file says of its input."""

    model: Classifier
    contract: Contract
    hardware: Hardware

    @classmethod
    def load(
        cls, path: Path, device: str = "auto", precision: str = "auto", tta: int = 1
    ) -> "Predictor":
        """Read what `finetuning.trainer` wrote.

        Args:
            device, precision, tta: as the trainer's flags.

        Raises:
            UserError: not such a file, or no such device.
        """
        hardware = choose_hardware(device, precision)
        tensors, contract = read_weights(path)
        if contract.task != "classification":
            raise UserError(
                f"{path} was trained for {contract.task}; name a best_model.safetensors of "
                "finetuning.trainer"
            )
        encoder = build_encoder(
            contract.architecture, contract.in_channels, contract.stages, None, contract.spectrogram
        )
        model = Classifier(encoder, len(contract.classes), torch.Generator())
        load_strictly(model, tensors, path)
        return cls(over_shifts(hardware.place(model), tta), contract, hardware)

    def predict(self, signal: np.ndarray, fs: float, unit: str = "mV") -> np.ndarray:
        """Probability of each class, (classes,) float32, in the order of the contract's.

        The recording is resampled (by a polyphase filter, as `finetuning.prepare` does by default),
        normalised and padded; of a longer one the end is looked at.

        Args:
            signal: (samples,) or (samples, leads). fs: Hz. unit: mV, uV or V.

        Raises:
            Unusable: another shape, an unknown unit, shorter than a second, or missing samples.
        """
        contract = self.contract
        signal = np.asarray(signal, np.float64) * millivolt(unit, None)
        signal = signal[:, None] if signal.ndim == 1 else signal
        if signal.ndim != 2 or signal.shape[1] != contract.in_channels:
            raise Unusable(f"shape {signal.shape} is not (samples, {contract.in_channels})")
        recording = Recording(signal, fs)
        check_signal(recording)
        microvolt, _ = to_microvolt(recording, contract.fs, "polyphase", "constant")
        kept = microvolt[-contract.frame_size :]
        x = torch.zeros(1, contract.in_channels, contract.frame_size)
        x[0, :, -len(kept) :] = torch.from_numpy(kept.T) / 1000
        inside = torch.arange(contract.frame_size) >= contract.frame_size - len(kept)
        x = normalise(x, inside, contract.mean, contract.sd)
        batch = Batch(x.to(self.hardware.device), torch.zeros(1), 1)
        logits, _ = predict(self.model, [batch], self.hardware)
        return TARGETS[contract.multi_label].probabilities(logits / contract.temperature)[0].numpy()
