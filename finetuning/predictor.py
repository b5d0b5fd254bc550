"""Answers for single recordings, from fine-tuned weights files."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from finetuning.answers import Prediction, Rule
from finetuning.band import band_pass
from finetuning.doubts import doubt
from finetuning.normalising import normalise
from finetuning.shifting import over_shifts
from finetuning.targets import TARGETS
from finetuning.windows import SHORTEST, windows
from utils.cli import UserError
from utils.contract import Contract
from utils.datasets import DATA_SETS
from utils.encoders import Classifier, build_encoder
from utils.engine import Batch, Hardware, choose_hardware, predict
from utils.opened import OpenRecording
from utils.recordings import Recording, millivolt
from utils.resampling import to_microvolt
from utils.weights import load_strictly, read_weights
from utils.wfdb_io import Unusable, check_rate

BATCH = 16  # windows; more are no faster on a CPU, and take memory


class Member(NamedTuple):
    """A classifier, and what its weights file says of its input."""

    model: Classifier
    contract: Contract
    hardware: Hardware
    tta: int

    @classmethod
    def load(cls, path: Path, hardware: Hardware, tta: int) -> "Member":
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
        return cls(hardware.place(model).eval(), contract, hardware, tta)

    def input(self, signal: np.ndarray, fs: float) -> tuple[Tensor, int]:
        """A stretch (samples, leads) in mV as the network takes it, and how much of that is signal.

        It is resampled (by a polyphase filter, as `finetuning.prepare` does by default), normalised
        and padded in front to (1, C, T); of a longer one the end is looked at.
        """
        contract = self.contract
        microvolt, _ = to_microvolt(Recording(signal, fs), contract.fs, "polyphase", "constant")
        kept = microvolt[-contract.frame_size :]
        x = torch.zeros(1, contract.in_channels, contract.frame_size)
        x[0, :, -len(kept) :] = torch.from_numpy(kept.T) / 1000
        inside = torch.arange(contract.frame_size) >= contract.frame_size - len(kept)
        return normalise(x, inside, contract.mean, contract.sd), len(kept)

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
        logits, _ = predict(over_shifts(self.model, self.tta), [batch], self.hardware)
        targets = TARGETS[self.contract.multi_label]
        return targets.probabilities(logits / self.contract.temperature).numpy()


class Predictor(NamedTuple):
    """One or several networks, whose probabilities are averaged, when they do not answer, and the
    band in Hz that signals are cut to."""

    members: list[Member]
    rule: Rule
    band: tuple[float, float] | None = None

    @classmethod
    def load(
        cls,
        *paths: Path,
        device: str = "auto",
        precision: str = "auto",
        tta: int = 1,
        abstain: float = 0.0,
        band_pass: bool = True,
    ) -> "Predictor":
        """Read what `finetuning.trainer` wrote.

        Args:
            device, precision, tta: as the trainer's flags.
            abstain: probability below which a class is no answer; not where several can be true.
            band_pass: cut signals to the band of the recordings that they were trained on, where
                that is known.

        Raises:
            UserError: not such a file, no such device, or networks that do not fit together.
        """
        hardware = choose_hardware(device, precision)
        members = [Member.load(path, hardware, tta) for path in paths]
        first = members[0].contract
        for path, member in zip(paths, members, strict=True):
            for name in ("classes", "multi_label", "in_channels"):
                own, wanted = (getattr(each, name) for each in (member.contract, first))
                if own != wanted:
                    raise UserError(f"{path}: its {name} {own} are not {wanted} of {paths[0]}")
        known = DATA_SETS.get(first.dataset)
        band = known.band if known and band_pass else None
        return cls(members, Rule(first.classes, first.multi_label, abstain), band)

    @property
    def contract(self) -> Contract:
        """Of the first network; the others have the same classes and leads."""
        return self.members[0].contract

    @property
    def hardware(self) -> Hardware:
        return self.members[0].hardware

    @property
    def capacity(self) -> float:
        """Seconds that all of the networks see at once."""
        return min(member.contract.frame_size / member.contract.fs for member in self.members)

    def predict(self, signal: np.ndarray, fs: float, unit: str = "mV") -> Prediction:
        """Answer for a signal: whole, or where it is long, in windows (`finetuning.windows`).

        Args:
            signal: (samples,) or (samples, leads); NaN where samples are missing.
            fs: Hz. unit: mV, uV or V.

        Raises:
            Unusable: another shape, rate or unit.
        """
        signal = np.asarray(signal, np.float64) * millivolt(unit, None)
        signal = signal[:, None] if signal.ndim == 1 else signal
        leads = self.contract.in_channels
        if signal.ndim != 2 or signal.shape[1] != leads or not len(signal):
            raise Unusable(f"shape {signal.shape} is not (samples, {leads})")
        check_rate(fs)
        return self.predict_recording(OpenRecording.of_array(signal, 1, fs, None))

    def predict_recording(self, recording: OpenRecording, lead: int | None = None) -> Prediction:
        """Answer for a recording that is read window by window.

        Args:
            lead: number of the one to look at; all by default.
        """
        fs, answers = recording.fs, []
        found = windows(recording.samples, fs, self.capacity)
        for first in range(0, len(found), BATCH):
            some = found[first : first + BATCH]
            signals = [recording.read(*window, lead) for window in some]
            pairs = zip(some, self._look(signals, fs), strict=True)
            answers += [self.rule.answer(w.start / fs, w.stop / fs, each) for w, each in pairs]
        return Prediction(list(self.rule.names), self.rule.whole(answers), answers)

    def evidence(self, signal: np.ndarray, fs: float) -> np.ndarray:
        """Where in a stretch (samples, leads) in mV the evidence lies: `Member.evidence`, averaged.

        Returns:
            (classes, parts), in equal parts of the stretch.
        """
        signal = self.filtered(signal, fs)
        each = [member.evidence(signal, fs) for member in self.members]
        parts = np.linspace(0, 1, each[0].shape[1])
        alike = [
            [np.interp(parts, np.linspace(0, 1, len(one)), one) for one in found] for found in each
        ]
        return np.mean(alike, axis=0)

    def _look(self, signals: Iterable[np.ndarray], fs: float) -> list[np.ndarray | str]:
        """Mean probabilities of each stretch, or why there are none."""
        least = min(SHORTEST, self.capacity)
        doubts = [doubt(signal, fs, least) for signal in signals]
        clear = [signal for signal, why in zip(signals, doubts, strict=True) if not why]
        if not clear:
            return doubts
        probabilities = iter(self.probabilities(clear, fs))
        return [why or next(probabilities) for why in doubts]

    def probabilities(self, signals: Sequence[np.ndarray], fs: float) -> np.ndarray:
        """Mean of all networks for stretches (samples, leads) in mV, (n, classes), whatever is
        wrong with them."""
        signals = [self.filtered(signal, fs) for signal in signals]
        return np.mean([member.probabilities(signals, fs) for member in self.members], axis=0)

    def filtered(self, signal: np.ndarray, fs: float) -> np.ndarray:
        """A stretch in the band that the networks know."""
        return band_pass(signal, fs, self.band) if self.band else signal
