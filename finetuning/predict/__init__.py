"""Predictions for single recordings, from the weights files of `finetuning.trainer`.

    predictor = Predictor.load("weights/af_resnet18.safetensors", abstain=0.5)
    prediction = predictor.predict(signal, fs=500, unit="uV")

`prediction.classes`, `.probabilities` and `.shares()` are the results.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy import signal as dsp
from torch import Tensor

from finetuning.batches import normalize, pad_front, signal_mask
from finetuning.evaluation import choose_targets
from finetuning.recipe import ShiftAverage
from models import Classifier
from recordings import LazyRecording, Unusable, check_rate, millivolt
from recordings.formats import Recording, lead_number, lead_order
from recordings.quality import INT16_RANGE, assess_leads, implausible_amplitude
from recordings.resampling import to_microvolt
from utils.cli import UserError
from utils.engine import Batch, Hardware, choose_hardware, evaluate
from utils.model_card import DATA_SETS, Metadata
from utils.weights import build_classifier, load_strictly, read_weights

BATCH = 4  # windows; larger batches are no faster on a CPU and take more memory
# Seconds: recordings of Challenge 2017 last 9 to 61 s, most of them 30 s.
SHORTEST, WINDOW, LONGEST = 9.0, 30, 61.0
READABLE = 0.5  # least share of the windows for an answer about the whole recording


class Answer(NamedTuple):
    """Answer for a stretch of a recording.

    Attributes:
        start, stop: seconds.
        probabilities: (classes,) float32, calibrated; NaN where the signal cannot be used.
        classes: classes that are present. Empty if `reason` is set, or if a multi-label network
            finds none.
        reason: why the predictor cannot tell, or None.
    """

    start: float
    stop: float
    probabilities: np.ndarray
    classes: tuple[str, ...]
    reason: str | None = None

    @property
    def readable(self) -> bool:
        """Whether there are probabilities."""
        return bool(np.isfinite(self.probabilities).all())


class Prediction(NamedTuple):
    """Prediction for a recording, as a whole and window by window; `names` are the classes in the
    order of all probabilities. A short recording has one window, which equals the whole."""

    names: list[str]
    whole: Answer
    windows: list[Answer]

    @property
    def probabilities(self) -> np.ndarray:
        """Probabilities for the whole recording, (classes,) float32."""
        return self.whole.probabilities

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes of the whole recording; empty if the predictor cannot tell."""
        return self.whole.classes

    def shares(self) -> dict[str, float]:
        """Share of the time by class; the key "" stands for "cannot tell"."""
        seconds = dict.fromkeys([*self.names, ""], 0.0)
        for answer in self.windows:
            for name in answer.classes or ([""] if answer.reason else []):
                seconds[name] += answer.stop - answer.start
        total = sum(answer.stop - answer.start for answer in self.windows)
        return {name: value / total for name, value in seconds.items()}


class Network(NamedTuple):
    """A fine-tuned classifier with the metadata of its weights file, the number of shifts over
    which logits are averaged (`tta`), and the pass band in Hz of the filter in front, if any."""

    model: Classifier
    metadata: Metadata
    hardware: Hardware
    tta: int = 1
    band: tuple[float, float] | None = None

    @classmethod
    def load(
        cls, path: Path, hardware: Hardware, tta: int = 1, band_pass: bool = False
    ) -> "Network":
        """Read a weights file of `finetuning.trainer`; raises `UserError` for any other file."""
        tensors, metadata = read_weights(path)
        if metadata.task != "classification":
            trained = f"{path} was trained for {metadata.task}"
            raise UserError(f"{trained}; name a best_model.safetensors of finetuning.trainer")
        model = build_classifier(metadata)
        load_strictly(model, tensors, path)
        dataset = DATA_SETS.get(metadata.dataset)
        band = dataset.band if dataset and band_pass else None
        return cls(hardware.place(model).eval(), metadata, hardware, tta, band)

    def network_input(self, signal: np.ndarray, fs: float) -> tuple[Tensor, int]:
        """Filter, resample, normalise and left-pad a signal (samples, leads) in mV.

        Returns:
            (1, C, frame_size) float32, and how many samples at its end are signal.
        """
        metadata = self.metadata
        signal = band_pass(signal, fs, self.band) if self.band else signal
        microvolt, _ = to_microvolt(Recording(signal, fs), metadata.fs, "polyphase", "constant")
        length = min(len(microvolt), metadata.frame_size)
        x = torch.from_numpy(pad_front(microvolt, metadata.frame_size))[None] / 1000
        mask = signal_mask(torch.tensor([length]), metadata.frame_size)
        return normalize(x, mask, metadata.mean, metadata.sd), length

    def probabilities(self, signals: Sequence[np.ndarray], fs: float) -> np.ndarray:
        """Calibrated probabilities (n, classes) float32 of signals (samples, leads) in mV."""
        inputs = torch.cat([self.network_input(signal, fs)[0] for signal in signals])
        batch = Batch(inputs.to(self.hardware.device), torch.zeros(len(inputs)), len(inputs))
        logits, _ = evaluate(ShiftAverage(self.model, self.tta), [batch], self.hardware)
        targets = choose_targets(self.metadata.multi_label)
        return targets.probabilities(logits / self.metadata.temperature).numpy()

    def class_activation_map(self, signal: np.ndarray, fs: float) -> np.ndarray:
        """Evidence for each class along a signal (samples, leads) in mV (Zhou et al. 2016).

        The mean over the classes is subtracted if they exclude each other.

        Returns:
            (classes, samples at the rate of the network), in logits.
        """
        x, length = self.network_input(signal, fs)
        with torch.inference_mode(), self.hardware.autocast():
            evidence = self.model.class_activation_map(x.to(self.hardware.device))
        evidence = self.model.upsample_map(evidence, x.shape[-1])[0, :, -length:].cpu().numpy()
        return evidence if self.metadata.multi_label else evidence - evidence.mean(0)


class Predictor(NamedTuple):
    """One or several networks whose probabilities are averaged.

    Attributes:
        abstain: probability below which no class is the answer; not used by multi-label networks.
    """

    networks: list[Network]
    abstain: float = 0.0

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
        """Read weights files of `finetuning.trainer`.

        Args:
            device, precision, tta: as the flags of the trainer.
            abstain: see `Predictor`.
            band_pass: filter signals to the band of each network's training data, if it is known.

        Raises:
            UserError: no such weights file or device, or networks of different classes or leads.
        """
        hardware = choose_hardware(device, precision)
        networks = [Network.load(path, hardware, tta, band_pass) for path in paths]
        first = networks[0].metadata
        for path, network in zip(paths, networks, strict=True):
            for name in ("classes", "multi_label", "in_channels"):
                value, expected = getattr(network.metadata, name), getattr(first, name)
                if value != expected:
                    raise UserError(f"{path}: its {name} {value} are not {expected} of {paths[0]}")
        return cls(networks, abstain)

    @property
    def metadata(self) -> Metadata:
        """Metadata of the first network; all have the same classes and leads."""
        return self.networks[0].metadata

    @property
    def hardware(self) -> Hardware:
        return self.networks[0].hardware

    def predict(self, signal: np.ndarray, fs: float, unit: str = "mV") -> Prediction:
        """Predict the classes of a signal; a long one is read in windows.

        Args:
            signal: (samples, leads), or (samples,) of one lead; NaN where samples are missing.
            fs: Hz.
            unit: mV, uV or V; case does not matter.

        Raises:
            Unusable: unsuitable shape, sampling rate or unit.
        """
        signal = np.asarray(signal, np.float64) * millivolt(unit, None)
        signal = signal[:, None] if signal.ndim == 1 else signal
        leads = self.metadata.in_channels
        if signal.ndim != 2 or signal.shape[1] != leads or not len(signal):
            several = signal.ndim == 2 and signal.shape[1] > leads == 1
            hint = "; this network takes one lead, choose a column: signal[:, 0]" if several else ""
            raise Unusable(f"shape {signal.shape} is not (samples, {leads}){hint}")
        check_rate(fs)
        return self.predict_recording(LazyRecording.of_array(signal, 1, fs, None))

    def select_leads(self, recording: LazyRecording, channel: str | None = None) -> LazyRecording:
        """The recording with the leads that the networks see, in their order.

        `channel` is the name or number of the lead for networks of one; the first by default.

        Raises:
            Unusable: there are no such leads.
        """
        count, dataset = self.metadata.in_channels, DATA_SETS.get(self.metadata.dataset)
        if count > 1 and channel is not None:
            raise Unusable(f"--channel is for networks of one lead, these take {count}")
        if count == 1:
            number = lead_number(recording, channel)
            selected = recording.select([number])
            return replace(selected, leads=selected.leads or [str(number)])
        return recording.select(lead_order(recording, count, dataset.leads if dataset else None))

    def predict_recording(self, recording: LazyRecording) -> Prediction:
        """Predict the classes of a recording of `select_leads`, a few windows at a time."""
        fs, answers = recording.fs, []
        capacity = min(n.metadata.frame_size / n.metadata.fs for n in self.networks)
        filtered = all(network.band for network in self.networks)
        windows = split_windows(recording.samples, fs, capacity)
        for first in range(0, len(windows), BATCH):
            spans = windows[first : first + BATCH]
            signals = [recording.read(*span) for span in spans]
            reasons = [check_signal(signal, fs, capacity, filtered) for signal in signals]
            usable = [s for s, reason in zip(signals, reasons, strict=True) if not reason]
            probabilities = iter(self.probabilities(usable, fs) if usable else ())
            for (start, stop), reason in zip(spans, reasons, strict=True):
                values = None if reason else next(probabilities)
                answers.append(self.answer(start / fs, stop / fs, values, reason))
        return Prediction(list(self.metadata.classes), self.whole_answer(answers), answers)

    def probabilities(self, signals: Sequence[np.ndarray], fs: float) -> np.ndarray:
        """Mean probabilities (n, classes) of signals (samples, leads) in mV, without any check."""
        return np.mean([network.probabilities(signals, fs) for network in self.networks], axis=0)

    def class_activation_map(self, signal: np.ndarray, fs: float) -> np.ndarray:
        """Mean of `Network.class_activation_map`, (classes, parts) in equal parts of the signal."""
        maps = [network.class_activation_map(signal, fs) for network in self.networks]
        grid = np.linspace(0, 1, maps[0].shape[1])
        places = [np.linspace(0, 1, m.shape[1]) for m in maps]
        rows = [[np.interp(grid, x, row) for row in m] for x, m in zip(places, maps, strict=True)]
        return np.mean(rows, axis=0)

    def answer(
        self, start: float, stop: float, probabilities: np.ndarray | None, reason: str | None = None
    ) -> Answer:
        """Answer for a stretch, from probabilities (classes,) or the reason why there are none."""
        if probabilities is None or not np.isfinite(probabilities).all():
            missing = np.full(len(self.metadata.classes), np.nan, np.float32)
            return Answer(start, stop, missing, (), reason or "the network gives no numbers")
        if self.metadata.multi_label:
            pairs = zip(self.metadata.classes, probabilities, strict=True)
            return Answer(start, stop, probabilities, tuple(name for name, p in pairs if p > 0.5))
        best = int(probabilities.argmax())
        if probabilities[best] < self.abstain:
            return Answer(start, stop, probabilities, (), f"confidence is below {self.abstain:g}")
        return Answer(start, stop, probabilities, (self.metadata.classes[best],))

    def whole_answer(self, windows: Sequence[Answer]) -> Answer:
        """Answer for a recording: the mean over its windows, weighted by their length."""
        if len(windows) == 1:
            return windows[0]
        start, stop = windows[0].start, windows[-1].stop
        readable = [window for window in windows if window.readable]
        if len(readable) < READABLE * len(windows):
            reasons = [window.reason for window in windows if not window.readable]
            reason = max(sorted(set(reasons)), key=reasons.count)
            share = f"{len(readable)} of {len(windows)} windows can be read ({reason})"
            return self.answer(start, stop, None, share)
        lengths = [window.stop - window.start for window in readable]
        mean = np.average([window.probabilities for window in readable], axis=0, weights=lengths)
        return self.answer(start, stop, mean.astype(np.float32))


def split_windows(samples: int, fs: float, capacity: float) -> list[tuple[int, int]]:
    """Split a recording into windows (start, stop) in samples; a short one is a single window.

    A last window shorter than `SHORTEST` is joined to the one before it, or begins earlier if the
    joined window would exceed the `capacity`, the seconds that fit into the networks' input.
    """
    if samples <= min(LONGEST, capacity) * fs:
        return [(0, samples)]
    length = min(WINDOW, capacity)
    edges = [round(number * length * fs) for number in range(int(samples / fs / length) + 1)]
    windows = list(pairwise(edges))
    if samples - edges[-1] >= SHORTEST * fs:
        return [*windows, (edges[-1], samples)]
    if samples - windows[-1][0] <= math.ceil(capacity * fs):
        return [*windows[:-1], (windows[-1][0], samples)]
    return [*windows, (samples - round(length * fs), samples)]


def check_signal(
    signal: np.ndarray, fs: float, capacity: float = WINDOW, filtered: bool = True
) -> str | None:
    """Reason why a signal (samples, leads) in mV, as it was recorded, cannot be used, or None.

    Args:
        capacity: seconds that fit into the networks' input.
        filtered: whether a band-pass filter will remove an offset.
    """
    least = min(SHORTEST, capacity)
    if len(signal) < int(least * fs):  # windows consist of whole samples
        return f"{len(signal) / fs:.1f} s are too short, below {least:g} s"
    if not np.isfinite(signal).all():
        return "samples are missing"
    quality = assess_leads(signal)
    if quality.constant:
        return "flat"
    if quality.clipped:
        return "clipped"
    if not filtered and (np.abs(np.median(signal, axis=0)) > INT16_RANGE).any():
        return f"has an offset of more than {INT16_RANGE:g} mV; subtract it"
    return implausible_amplitude(signal)


def band_pass(signal: np.ndarray, fs: float, band: tuple[float, float]) -> np.ndarray:
    """Filter a signal (samples, leads) to a band in Hz (Butterworth, forwards and backwards).

    An upper edge beyond half of the sampling rate `fs` is left out.
    """
    kind, edges = ("bandpass", band) if band[1] < fs / 2 else ("highpass", band[0])
    sections = dsp.butter(2, edges, kind, fs=fs, output="sos")
    padding = min(len(signal) - 1, round(3 * fs))  # as long as the filter's memory
    return dsp.sosfiltfilt(sections, signal, axis=0, padtype="even", padlen=padding)
