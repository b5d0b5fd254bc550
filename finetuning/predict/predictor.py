"""Answers for single recordings, from fine-tuned weights files."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from finetuning.predict.answers import Prediction, Rule
from finetuning.predict.doubts import doubt
from finetuning.predict.member import Member
from finetuning.predict.windows import SHORTEST, windows
from recordings import LazyRecording, Unusable, check_rate, millivolt
from utils.cli import UserError
from utils.contract import Contract
from utils.engine import Hardware, choose_hardware

BATCH = 4  # windows; more are no faster on a CPU, and take memory


class Predictor(NamedTuple):
    """One or several networks, whose probabilities are averaged, and when they do not answer."""

    members: list[Member]
    rule: Rule

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
            band_pass: cut signals to the band of the recordings that each was trained on, where
                that is known.

        Raises:
            UserError: not such a file, no such device, or networks that do not fit together.
        """
        hardware = choose_hardware(device, precision)
        members = [Member.load(path, hardware, tta, band_pass) for path in paths]
        first = members[0].contract
        for path, member in zip(paths, members, strict=True):
            for name in ("classes", "multi_label", "in_channels"):
                own, wanted = (getattr(each, name) for each in (member.contract, first))
                if own != wanted:
                    raise UserError(f"{path}: its {name} {own} are not {wanted} of {paths[0]}")
        return cls(members, Rule(first.classes, first.multi_label, abstain))

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
        """Answer for a signal: whole, or where it is long, in windows.

        Args:
            signal: (samples, leads) of as many leads as the networks take, or (samples,) of one;
                NaN where samples are missing.
            fs: Hz. unit: mV, uV or V, whatever its capitals.

        Raises:
            Unusable: another shape, rate or unit.
        """
        signal = np.asarray(signal, np.float64) * millivolt(unit, None)
        signal = signal[:, None] if signal.ndim == 1 else signal
        leads = self.contract.in_channels
        if signal.ndim != 2 or signal.shape[1] != leads or not len(signal):
            several = signal.ndim == 2 and signal.shape[1] > leads == 1
            hint = "; this network takes one lead, choose a column: signal[:, 0]" if several else ""
            raise Unusable(f"shape {signal.shape} is not (samples, {leads}){hint}")
        check_rate(fs)
        return self.predict_recording(LazyRecording.of_array(signal, 1, fs, None))

    def predict_recording(self, recording: LazyRecording, lead: int | None = None) -> Prediction:
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
        each = [member.evidence(signal, fs) for member in self.members]
        parts = np.linspace(0, 1, each[0].shape[1])
        alike = [
            [np.interp(parts, np.linspace(0, 1, len(one)), one) for one in found] for found in each
        ]
        return np.mean(alike, axis=0)

    def _look(self, signals: Iterable[np.ndarray], fs: float) -> list[np.ndarray | str]:
        """Mean probabilities of each stretch, or why there are none."""
        least = min(SHORTEST, self.capacity)
        centred = all(member.band for member in self.members)
        doubts = [doubt(signal, fs, least, centred) for signal in signals]
        clear = [signal for signal, why in zip(signals, doubts, strict=True) if not why]
        if not clear:
            return doubts
        probabilities = iter(self.probabilities(clear, fs))
        return [why or next(probabilities) for why in doubts]

    def probabilities(self, signals: Sequence[np.ndarray], fs: float) -> np.ndarray:
        """Mean of all networks for stretches (samples, leads) in mV, (n, classes), whatever is
        wrong with them."""
        return np.mean([member.probabilities(signals, fs) for member in self.members], axis=0)
