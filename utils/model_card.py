"""Metadata of weights files, the data sets that they name, and model cards in Markdown.

Neither metadata nor cards hold times, paths or host names.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from types import UnionType
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

from torch import Tensor

from utils.cli import UserError

KEY = "contract"  # of the metadata in the file's header, for files written before
CARD = "MODEL_CARD.md"  # name of the card in a job directory
JOINED = "+"  # between the names of data sets that were converted into one
UNKNOWN = "unknown"  # origin of initial weights whose file does not record it
TWELVE_LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
MAX_LEADS, MAX_FS, MAX_FRAME = 256, 20_000, 2**24  # larger values would exhaust memory
MAX_NUMBER = 1e30  # for means and standard deviations, and its inverse, in float32


class Licence(NamedTuple):
    """Name and text of a licence, and the notice that it asks for."""

    name: str
    url: str
    notice: str = "Made from {title}, under {name}."
    non_commercial: bool = False


CC = "https://creativecommons.org/licenses"
ODC_BY = Licence(
    "ODC-By 1.0",
    "https://opendatacommons.org/licenses/by/1-0/",
    "Contains information from {title}, which is made available under the ODC Attribution License.",
)
CC_BY = Licence("CC BY 4.0", f"{CC}/by/4.0/")
CC_BY_NC_SA = Licence("CC BY-NC-SA 4.0", f"{CC}/by-nc-sa/4.0/", non_commercial=True)


class DataSet(NamedTuple):
    """A public data set.

    Attributes:
        title, licence, cite, recordings: for model cards.
        classes: descriptions of classes whose names are abbreviations.
        band: Hz; passband of the recording device, where it is narrower than that of others.
        leads: order of the leads, where there are several.
    """

    title: str
    licence: Licence
    cite: str
    recordings: str
    classes: Mapping[str, str] = {}
    band: tuple[float, float] | None = None
    leads: tuple[str, ...] | None = None


DATA_SETS = {
    "challenge17": DataSet(
        "the PhysioNet/Computing in Cardiology Challenge 2017",
        ODC_BY,
        "Clifford et al. 2017, doi:10.22489/CinC.2017.065-469",
        "9 to 61 s, one lead of a hand-held device",
        {"A": "atrial fibrillation", "N": "normal rhythm", "O": "other rhythm", "~": "too noisy"},
        band=(0.5, 40),  # Clifford et al. 2017
    ),
    "challenge20": DataSet(
        "the PhysioNet/Computing in Cardiology Challenge 2020",
        CC_BY,
        "Perez Alday et al. 2020, doi:10.1088/1361-6579/abc960",
        "12 leads, of several hospitals",
        leads=TWELVE_LEADS,
    ),
    "icentia11k": DataSet(
        "the Icentia11k Continuous ECG Database",
        CC_BY_NC_SA,
        "Tan et al. 2022, doi:10.13026/kk0v-r952",
        "one lead of a patch on the chest, worn for up to two weeks",
    ),
    "mitdb": DataSet(
        "the MIT-BIH Arrhythmia Database",
        ODC_BY,
        "Moody & Mark 2001, doi:10.13026/C2F305",
        "half an hour of each of 47 people, ambulatory; two leads, used separately",
    ),
    "svdb": DataSet(
        "the MIT-BIH Supraventricular Arrhythmia Database",
        ODC_BY,
        "Greenwald 1990, doi:10.13026/C2V30W",
        "half an hour of each of 78 people; two leads, used separately",
    ),
    "ptbxl": DataSet(
        "PTB-XL",
        CC_BY,
        "Wagner et al. 2020, doi:10.1038/s41597-020-0495-6",
        "10 s, 12 leads, clinical",
        leads=TWELVE_LEADS,
    ),
}
PHYSIONET = "Goldberger et al. 2000, doi:10.1161/01.CIR.101.23.e215"


@dataclass(frozen=True)
class Metadata:
    """All that is needed to rebuild a network and to prepare its input.

    Attributes:
        architecture, stages, in_channels: the encoder, see `models.build_encoder`.
        fs: Hz. unit: of the signal before normalisation.
        mean, sd: in that unit; a list has one value for each lead. None: each input is normalised
            by its own.
        frame_size: samples of one input.
        task, classes: training objective, and its classes in the order of the logits.
        dataset: training data; `mitdb+svdb` of joined sets.
        manifest_sha256: of the training data's manifest; of imported weights, of their files.
        seed: of the run, if known. versions: of the libraries.
        spectrogram: fields of `models.spectrogram.SpectrogramSettings`, of 2-D networks.
        multi_label: whether an input may have several classes: sigmoid instead of softmax.
        context: settings of the CPC objective.
        temperature: divisor of the logits that calibrates the probabilities (Guo et al. 2017).
        derived_from: data sets of the initial weights, the earliest first; empty if they were
            random, None if unknown.
    """

    architecture: str
    stages: int | None
    in_channels: int
    fs: float
    unit: str
    mean: float | list[float] | None
    sd: float | list[float] | None
    frame_size: int
    task: str
    classes: list[str]
    dataset: str
    manifest_sha256: str
    seed: int | None
    versions: dict[str, str]
    spectrogram: dict[str, int | str] | None = None
    multi_label: bool = False
    context: dict[str, int] | None = None
    temperature: float = 1.0
    derived_from: list[str] | None = None

    @property
    def lineage(self) -> list[str]:
        """All data sets that the weights were made from, the earliest first."""
        before = [UNKNOWN] if self.derived_from is None else self.derived_from
        return list(dict.fromkeys([*before, *self.dataset.split(JOINED)]))

    def to_header(self) -> dict[str, str]:
        """One entry only: safetensors writes several in no fixed order."""
        return {KEY: json.dumps(asdict(self), sort_keys=True)}

    @classmethod
    def from_header(cls, header: Mapping[str, str] | None, source: str) -> "Metadata":
        """Read and check the metadata in the header of the file `source`.

        Raises:
            UserError: they are missing, of the wrong type, or out of range.
        """
        try:
            values = json.loads((header or {})[KEY])
            names = [field.name for field in fields(cls) if field.name in values]
            metadata = cls(**{name: values[name] for name in names})
        except (KeyError, TypeError, ValueError, RecursionError):
            raise UserError(f"{source} holds no weights of this project (no metadata)") from None
        for name in metadata._invalid_fields():
            wrong = f"{name} {str(values.get(name))[:40]!r}"
            raise UserError(f"{source} holds no weights of this project (metadata: {wrong})")
        return metadata

    def _invalid_fields(self) -> list[str]:
        types = get_type_hints(Metadata).items()
        wrong = [name for name, kind in types if not _has_type(getattr(self, name), kind)]
        if wrong:
            return wrong
        means, sds = (v if isinstance(v, list) else [v] for v in (self.mean, self.sd))
        valid = {
            "in_channels": 0 < self.in_channels <= MAX_LEADS,
            "fs": 1 <= self.fs <= MAX_FS,
            "unit": self.unit == "mV",
            "mean": len(means) in (1, self.in_channels) and (None in means) == (None in sds),
            "sd": len(sds) == len(means) and all(sd is None or sd > 1 / MAX_NUMBER for sd in sds),
            "frame_size": 0 < self.frame_size <= MAX_FRAME,
            "classes": len(set(self.classes)) == len(self.classes),
            "temperature": self.temperature > 1 / MAX_NUMBER,
        }
        return [name for name, holds in valid.items() if not holds]


def _has_type(value: Any, kind: Any) -> bool:
    """Whether a value from JSON is of a type such as `float`, `list[str]` or `int | None`."""
    if isinstance(kind, UnionType):
        return any(_has_type(value, option) for option in get_args(kind))
    if get_origin(kind) is list:
        return type(value) is list and all(_has_type(v, get_args(kind)[0]) for v in value)
    if get_origin(kind) is dict:
        return type(value) is dict and all(_has_type(v, get_args(kind)[1]) for v in value.values())
    if kind is float:
        return type(value) in (int, float) and abs(value) < MAX_NUMBER
    return type(value) is kind


CLASSES = {
    "pac": "premature atrial contraction",
    "aberrated": "aberrated premature atrial contraction",
    "pvc": "premature ventricular contraction",
    "afib": "atrial fibrillation",
    "aflut": "atrial flutter",
}
CLASSIFIER = """```python
from finetuning.predict import Predictor

predictor = Predictor.load("{name}")
predictor.predict(signal, fs=300, unit="mV")  # {shape}, at any rate
```

```sh
python -m finetuning.predict --weights {name} RECORD
```"""
ENCODER = """```python
from utils.weights import load_encoder

encoder = load_encoder("{name}").encoder.eval()
encoder(x)  # (batch, leads, samples) as described above -> (batch, features)
```"""
LIMITS = """For research on ECG classification and transfer learning. Not for diagnosis, monitoring
or treatment, and not tested for it. With devices, leads, electrode positions, ages or diseases
other than those of the training data, predictions may be wrong with high confidence; an input that
belongs to none of the classes is still assigned one of them. The training labels contain errors."""


def render(
    name: str,
    tensors: Mapping[str, Tensor],
    metadata: Metadata,
    data: Mapping[str, str],
    scores: Mapping[str, Any],
) -> str:
    """Model card as Markdown.

    Args:
        name: of the weights file.
        data: further rows on the data.
        scores: content of `scores.json`.
    """
    classifies = metadata.task == "classification" and _has_head(tensors)
    leads = metadata.in_channels
    shape = "(samples,)" if leads == 1 else f"(samples, {leads})"
    rows, table = describe(tensors, metadata) | data, score_table(scores)
    parts = [
        f"# {metadata.architecture}, {metadata.task}, {metadata.dataset}",
        "A neural network for electrocardiograms. **Not a medical device.**",
        "\n".join(f"- **{row}**: {value}" for row, value in rows.items()),
        (CLASSIFIER if classifies else ENCODER).format(name=name, shape=shape),
        "## Licence\n\n" + "\n".join(licence_notices(metadata.lineage)),
        f"## Scores\n\n{table}" if table else "",
        f"## Intended use and limits\n\n{LIMITS}",
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def describe(tensors: Mapping[str, Tensor], metadata: Metadata) -> dict[str, str]:
    """Content of a weights file in words: network, input, output, origin."""
    m = metadata
    part = "with its head" if _has_head(tensors) else "the encoder alone"
    stages = f", the first stages: {m.stages}" if m.stages else ""
    padded = "; shorter recordings are normalised, then padded with zeros in front"
    padding = padded if m.task == "classification" else ""
    squash = "sigmoid" if m.multi_label else "softmax"
    output = f"probabilities: {squash} of (logits / {m.temperature:.6g}, the temperature)"
    rows = {
        "architecture": f"{m.architecture}{stages}, {part}",
        "parameters": f"{sum(tensor.numel() for tensor in tensors.values()):,}",
        "task": m.task,
        "classes": _classes(m),
        "context": _listed(m.context),
        "leads": str(m.in_channels),
        "signal": f"{m.fs:g} Hz, {m.unit}",
        "normalisation": _normalisation(m),
        "input": f"{m.frame_size:,} samples ({m.frame_size / m.fs:.1f} s){padding}",
        "spectrogram": _listed(m.spectrogram),
        "output": output if _has_head(tensors) else "features",
        "trained on": title_of(m.dataset),
        "initial weights": _initial_weights(m),
        "manifest (SHA-256)": m.manifest_sha256,
        "seed": "unknown" if m.seed is None else str(m.seed),
        "libraries": _listed(m.versions),
    }
    return {name: value for name, value in rows.items() if value}


def _has_head(tensors: Mapping[str, Tensor]) -> bool:
    return any(not name.startswith("encoder.") for name in tensors)


def title_of(name: str) -> str:
    """`mitdb (the MIT-BIH Arrhythmia Database: …)`, or the name alone; each of a joined set."""
    known = {part: DATA_SETS.get(part) for part in name.split(JOINED)}
    return " + ".join(
        f"{part} ({s.title}: {s.recordings})" if s else part for part, s in known.items()
    )


def licence_notices(names: Iterable[str]) -> list[str]:
    """Notices that weights made from these data sets have to carry, as lines of Markdown."""
    lines, restricted = [], []
    for name in names:
        if name in DATA_SETS:
            title, licence, cite = DATA_SETS[name][:3]
            notice = licence.notice.format(title=title, name=licence.name)
            lines.append(
                f"- {name}: [{licence.name}]({licence.url}). {notice} {cite}; {PHYSIONET}."
            )
            restricted += [name] * licence.non_commercial
        elif name == UNKNOWN:
            lines.append("- The initial weights are not recorded; further licences may apply.")
        else:
            lines.append(f"- {name}: no known public data set; ask the provider of the recordings.")
    if restricted:
        made = f"they were made from {', '.join(restricted)}"
        lines += ["", f"**These weights are for non-commercial use only**: {made}."]
    return lines


def score_table(scores: Mapping[str, Any]) -> str:
    """Scores as a Markdown table, a column for each part of the data but `train`; empty if none."""
    parts = {name: part for name, part in scores.items() if isinstance(part, Mapping)}
    columns = {name: _numbers(part) for name, part in parts.items() if name != "train" and part}
    rows = dict.fromkeys(row for column in columns.values() for row in column)
    lines = [["", *columns], ["---"] * (len(columns) + 1)]
    lines += [[row, *(column.get(row, "") for column in columns.values())] for row in rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) if rows else ""


def _numbers(scores: Mapping[str, Any]) -> dict[str, str]:
    """`{"f1": {"A": 0.5}, "records": 10}` to `{"f1 A": "0.500", "records": "10"}`."""
    rows = {}
    for name, value in scores.items():
        if isinstance(value, Mapping):
            rows |= {f"{name} {key}": number for key, number in _numbers(value).items()}
        elif isinstance(value, int | float):
            rows[name] = f"{value:,}" if isinstance(value, int) else f"{value:.3f}"
    return rows


def _classes(metadata: Metadata) -> str:
    data_set = DATA_SETS.get(metadata.dataset)
    known = CLASSES | (data_set.classes if data_set else {})
    words = [f"{name} ({known[name]})" if name in known else name for name in metadata.classes]
    return f"{'any' if metadata.multi_label else 'one'} of {', '.join(words)}" if words else ""


def _normalisation(metadata: Metadata) -> str:
    if metadata.mean is None or metadata.sd is None:
        return "each input by its own mean and standard deviation"
    values = (v if isinstance(v, list) else [v] for v in (metadata.mean, metadata.sd))
    mean, sd = (", ".join(f"{number:.6g}" for number in value) for value in values)
    return f"minus {mean} mV, divided by {sd} mV"


def _initial_weights(metadata: Metadata) -> str:
    if metadata.derived_from is None:
        return "not recorded"
    return "; then ".join(map(title_of, metadata.derived_from)) or "random"


def _listed(values: Mapping[str, Any] | None) -> str:
    return ", ".join(f"{name} {value}" for name, value in (values or {}).items())
