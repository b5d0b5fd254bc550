"""Predictions for single recordings, from the weights files of `finetuning.trainer`.

predictor = Predictor.load()  # the shipped classifier; or name weights files
prediction = predictor.predict(signal, fs=500, unit="uV")
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import mode
from typing import NamedTuple

import numpy as np
import torch
from scipy import signal as dsp
from torch import Tensor

from finetuning.batches import normalize, pad_front, signal_mask
from finetuning.evaluation import choose_targets
from finetuning.recipe import ShiftAverage
from models import Classifier
from recordings import Hints, LazyRecording, Unusable, check_rate, quality
from recordings.formats import Recording, lead_number, lead_order
from recordings.resampling import to_microvolt
from utils.cli import UserError
from utils.engine import Batch, Hardware, choose_hardware, evaluate
from utils.model_card import DATA_SETS, Metadata
from utils.weights import build_classifier, load_strictly, read_weights

SHIPPED = Path(__file__).parents[2] / "weights" / "af_resnet18.safetensors"
ABSTAIN = 0.5  # least probability for an answer
BATCH = 4  # windows; larger batches are no faster on a CPU and take more memory
# Seconds: recordings of Challenge 2017 last 9 to 61 s, most of them 30 s.
SHORTEST, WINDOW, LONGEST = 9.0, 30, 61.0
READABLE = 0.5  # least share of the windows, and of the leads of one, for an answer about all


class Answer(NamedTuple):
    """Classes that are present from `start` to `stop`, in seconds."""

    start: float
    stop: float
    probabilities: np.ndarray  # (classes,) float32, calibrated; NaN if the signal is unusable
    classes: tuple[str, ...]
    reason: str | None = None  # why the predictor cannot tell; there are no classes then

    @property
    def readable(self) -> bool:
        return bool(np.isfinite(self.probabilities).all())


class Prediction(NamedTuple):
    """Answers for a recording as a whole and window by window; a short one is a single window.
    `names` are all classes, in the order of the probabilities."""

    names: list[str]
    whole: Answer
    windows: list[Answer]
    notes: tuple[str, ...] = ()  # what was done to the signal, each in one line

    def __repr__(self) -> str:
        return f"Prediction({self.whole}, of {len(self.windows)} windows)"

    @property
    def probabilities(self) -> np.ndarray:
        return self.whole.probabilities

    @property
    def classes(self) -> tuple[str, ...]:
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
    """A fine-tuned classifier with the metadata of its weights file."""

    model: Classifier
    metadata: Metadata
    hardware: Hardware
    tta: int = 1  # number of shifts over which logits are averaged
    band: tuple[float, float] | None = None  # Hz, to which signals are filtered first

    @classmethod
    def load(cls, path: Path, hardware: Hardware, tta: int = 1, band_pass=False) -> "Network":
        """Read a weights file of `finetuning.trainer`; raises `UserError` for any other file."""
        tensors, metadata = read_weights(path)
        if metadata.task != "classification":
            raise UserError(f"{path} is for {metadata.task}; name weights of finetuning.trainer")
        model = build_classifier(metadata)
        load_strictly(model, tensors, path)
        dataset = DATA_SETS.get(metadata.dataset)
        band = dataset.band if dataset and band_pass else None
        return cls(hardware.place(model).eval(), metadata, hardware, tta, band)

    def network_input(self, signal: np.ndarray, fs: float) -> tuple[Tensor, int]:
        """Filter, resample, normalise and left-pad a signal (samples, leads) in mV to
        (1, C, frame_size) float32; also returns how many samples at its end are signal."""
        metadata, size = self.metadata, self.metadata.frame_size
        signal = band_pass(signal, fs, self.band) if self.band else signal
        method, padtype = metadata.resampling, metadata.padtype
        microvolt, _ = to_microvolt(Recording(signal, fs), metadata.fs, method, padtype)
        length = min(len(microvolt), size)
        x = torch.from_numpy(pad_front(microvolt, size))[None] / 1000
        mask = signal_mask(torch.tensor([length]), size)
        return normalize(x, mask, metadata.mean, metadata.sd), length

    def probabilities(self, signals: Sequence[np.ndarray], fs: float) -> np.ndarray:
        """Calibrated probabilities (n, classes) float32 of signals (samples, leads) in mV."""
        inputs = torch.cat([self.network_input(signal, fs)[0] for signal in signals])
        batch = Batch(inputs.to(self.hardware.device), torch.zeros(len(inputs)), len(inputs))
        logits, _ = evaluate(ShiftAverage(self.model, self.tta), [batch], self.hardware)
        targets = choose_targets(self.metadata.multi_label)
        return targets.probabilities(logits / self.metadata.temperature).numpy()

    def class_activation_map(self, signal: np.ndarray, fs: float) -> np.ndarray:
        """Evidence for each class in logits, (classes, samples at the rate of the network), along a
        signal (samples, leads) in mV (Zhou et al. 2016); minus the mean over exclusive classes."""
        x, length = self.network_input(signal, fs)
        with torch.inference_mode(), self.hardware.autocast():
            evidence = self.model.class_activation_map(x.to(self.hardware.device))
        evidence = self.model.upsample_map(evidence, x.shape[-1])[0, :, -length:].cpu().numpy()
        return evidence if self.metadata.multi_label else evidence - evidence.mean(0)


class Predictor(NamedTuple):
    """Networks whose probabilities are averaged."""

    networks: list[Network]
    abstain: float = ABSTAIN  # below this probability the answer is no class; not for multi-label

    @classmethod
    def load(
        cls, *paths: Path, device: str = "auto", precision: str = "auto", tta: int = 1,
        abstain: float = ABSTAIN, band_pass: bool = True,
    ) -> "Predictor":  # fmt: skip
        """Read weights files of `finetuning.trainer`, of the same classes and number of leads;
        none: the shipped classifier. `band_pass` filters signals to the band of each network's
        training data, if it is known."""
        hardware = choose_hardware(device, precision)
        networks = [Network.load(path, hardware, tta, band_pass) for path in paths or [SHIPPED]]
        metadata = [network.metadata for network in networks]
        if len({(*m.classes, m.multi_label, m.in_channels) for m in metadata}) > 1:
            raise UserError(f"{', '.join(map(str, paths))}: different classes or numbers of leads")
        return cls(networks, abstain)

    def __repr__(self) -> str:
        names = [f"{n.metadata.architecture}, {n.metadata.dataset}" for n in self.networks]
        return f"Predictor({names}, classes={self.metadata.classes}, abstain={self.abstain:g})"

    @property
    def metadata(self) -> Metadata:
        """Metadata of the first network; all have the same classes and leads."""
        return self.networks[0].metadata

    @property
    def descriptions(self) -> dict[str, str]:
        """Description of each class in words, in the order of the classes."""
        dataset = DATA_SETS.get(self.metadata.dataset)
        known = dataset.classes if dataset else {}
        return {name: known.get(name, name) for name in self.metadata.classes}

    def predict(self, signal: np.ndarray, fs: float, unit: str = "mV") -> Prediction:
        """Predict the classes of a signal (samples, leads) or (leads, samples), of which time is
        the longer, or (samples,) of one lead, at `fs` Hz in mV, uV or V; missing samples are NaN,
        or masked. Raises `Unusable`."""
        values = np.ma.filled(np.ma.asarray(signal, np.float64), np.nan)
        recording = LazyRecording.of_values(values, Hints(fs, unit), Hints())
        count, needed = recording.count, self.metadata.in_channels
        if count != needed:
            one = "signal[0]" if count == values.shape[0] else "signal[:, 0]"
            advice = f"; pass one, such as {one}" if needed == 1 < count else ""
            raise Unusable(f"shape {values.shape} has {count} leads, not {needed}{advice}")
        check_rate(fs)
        return self.predict_recording(recording)

    def select_leads(self, recording: LazyRecording, channel: str | None = None) -> LazyRecording:
        """The recording with the leads that the networks see: for networks of one lead `channel`
        (name or number), by default the ECG; raises `Unusable` if it lacks them."""
        count, dataset = self.metadata.in_channels, DATA_SETS.get(self.metadata.dataset)
        if count == 1:
            number = lead_number(recording, channel)
            selected = recording.select([number])
            return replace(selected, leads=selected.leads or [str(number)])
        if channel is not None:
            raise Unusable(f"--channel is for networks of one lead, these take {count}")
        wanted = dataset and dataset.leads
        if wanted and recording.leads and recording.count > count:
            numbers = [lead_number(recording, lead) for lead in wanted]
            others = [lead for i, lead in enumerate(recording.leads) if i not in numbers]
            note = f"leads that the network does not take are left out: {', '.join(others)}"
            return replace(recording.select(numbers), notes=(*recording.notes, note))
        return recording.select(lead_order(recording, count, wanted))

    def predict_recording(self, recording: LazyRecording) -> Prediction:
        """Predict the classes of a recording of `select_leads`, a few windows at a time."""
        fs, classes, answers = recording.fs, self.metadata.classes, []
        capacity = min(n.metadata.frame_size / n.metadata.fs for n in self.networks)
        filtered = all(network.band for network in self.networks)
        windows = split_windows(recording.samples, fs, capacity)
        filled, faulty = set(), set()  # numbers of samples and of leads
        for first in range(0, len(windows), BATCH):
            spans, signals, reasons = windows[first : first + BATCH], [], []
            for start, stop in spans:
                marked = quality.mark_impossible(recording.read(start, stop))
                try:
                    signal, bad_leads = check_signal(marked, fs, capacity, filtered)
                except Unusable as error:
                    reasons.append(str(error))
                    continue
                signals.append(signal)
                reasons.append(None)
                faulty.update(bad_leads)
                filled.update((start + np.flatnonzero(np.isnan(marked).any(axis=1))).tolist())
            usable = [number for number, reason in enumerate(reasons) if not reason]
            probabilities = np.full((len(spans), len(classes)), np.nan, np.float32)
            if usable:
                probabilities[usable] = self.probabilities(signals, fs)
            for (start, stop), row, reason in zip(spans, probabilities, reasons, strict=True):
                answers.append(self.answer(start / fs, stop / fs, row, reason))
        notes, names = [], recording.leads or list(map(str, range(recording.count)))
        if filled:
            span = f"{min(filled) / fs:.2f} to {max(filled) / fs:.2f} s"
            notes.append(f"missing or impossible samples interpolated: {len(filled)}, from {span}")
        if faulty:
            notes.append(f"leads flat or clipped: {', '.join(names[n] for n in sorted(faulty))}")
        return Prediction(classes, self.whole_answer(answers), answers, tuple(notes))

    def probabilities(self, signals: Sequence[np.ndarray], fs: float) -> np.ndarray:
        """Mean probabilities (n, classes) of signals (samples, leads) in mV, without any check."""
        return np.mean([network.probabilities(signals, fs) for network in self.networks], axis=0)

    def class_activation_map(self, signal: np.ndarray, fs: float) -> np.ndarray:
        """Mean of `Network.class_activation_map`, (classes, samples of the first network)."""
        maps = [network.class_activation_map(signal, fs) for network in self.networks]
        count = maps[0].shape[1]  # networks of other rates have maps of other lengths
        return np.mean([m[:, np.arange(count) * m.shape[1] // count] for m in maps], axis=0)

    def answer(self, start: float, stop: float, probabilities: np.ndarray, reason=None) -> Answer:
        """Answer from probabilities (classes,), or the `reason` why they are NaN."""
        multi_label = self.metadata.multi_label
        if not reason and not multi_label and probabilities.max() < self.abstain:
            reason = f"confidence is below {self.abstain:g}"
        present = probabilities > 0.5 if multi_label else [probabilities.argmax()]
        classes = () if reason else tuple(np.array(self.metadata.classes)[present].tolist())
        return Answer(start, stop, probabilities, classes, reason)

    def whole_answer(self, windows: Sequence[Answer]) -> Answer:
        """Answer for a recording: the mean over its windows, weighted by their length."""
        if len(windows) == 1:
            return windows[0]
        span = windows[0].start, windows[-1].stop
        readable = [window for window in windows if window.readable]
        if len(readable) < READABLE * len(windows):
            reason = mode(window.reason for window in windows if not window.readable)
            reason = f"{len(readable)} of {len(windows)} windows can be read ({reason})"
            return self.answer(*span, np.full_like(windows[0].probabilities, np.nan), reason)
        lengths = [window.stop - window.start for window in readable]
        mean = np.average([window.probabilities for window in readable], axis=0, weights=lengths)
        return self.answer(*span, mean.astype(np.float32))


def split_windows(samples: int, fs: float, capacity: float) -> list[tuple[int, int]]:
    """Split a recording into windows (start, stop) in samples; a short one is a single window. A
    last window under `SHORTEST` is joined to the one before it, or begins earlier if that would
    exceed `capacity`, the seconds that fit into the networks' input."""
    if samples <= min(LONGEST, capacity) * fs:
        return [(0, samples)]
    length = min(WINDOW, capacity)
    edges = [round(number * length * fs) for number in range(int(samples / fs / length) + 1)]
    if samples - edges[-1] >= SHORTEST * fs:
        edges.append(samples)
    elif samples - edges[-2] <= np.ceil(capacity * fs):
        edges[-1] = samples
    last = [(samples - round(length * fs), samples)] if edges[-1] < samples else []
    return [*pairwise(edges), *last]


def check_signal(
    signal: np.ndarray, fs: float, capacity: float, filtered: bool
) -> tuple[np.ndarray, list[int]]:
    """A signal (samples, leads) in mV with its missing samples interpolated, and the leads that are
    flat or clipped, as some are in training; raises `Unusable` with the reason why there can be no
    answer. Networks take `capacity` seconds; an offset does not matter if they are `filtered`."""
    shortest = min(SHORTEST, capacity)
    if len(signal) < int(shortest * fs):  # windows consist of whole samples
        raise Unusable(f"{len(signal) / fs:.1f} s are too short, below {shortest:g} s")
    signal, _ = quality.fill_missing(signal, fs)
    flat, clipped = np.array(list(map(quality.assess, signal.T))).T
    if signal.shape[1] > 1:  # a dead electrode, but for the noise of the converter
        flat |= np.subtract(*np.percentile(signal, [99, 1], axis=0)) < quality.SPAN[0]
    faulty = flat | clipped
    if 1 - faulty.mean() < READABLE:
        raise Unusable("flat" if flat.any() else "clipped")
    if not filtered and (np.abs(np.median(signal, axis=0)) > quality.INT16_RANGE).any():
        raise Unusable(f"has an offset of more than {quality.INT16_RANGE:g} mV; subtract it")
    if reason := quality.implausible_amplitude(signal[:, ~flat]):
        raise Unusable(reason)
    return signal, np.flatnonzero(faulty).tolist()


def band_pass(signal: np.ndarray, fs: float, band: tuple[float, float]) -> np.ndarray:
    """Filter a signal (samples, leads) to a band in Hz (Butterworth, forwards and backwards); an
    upper edge beyond half of the sampling rate `fs` is left out."""
    kind, edges = ("bandpass", band) if band[1] < fs / 2 else ("highpass", band[0])
    sections = dsp.butter(2, edges, kind, fs=fs, output="sos")
    padding = min(len(signal) - 1, round(3 * fs))  # as long as the filter's memory
    return dsp.sosfiltfilt(sections, signal, axis=0, padtype="even", padlen=padding)
