"""Metadata of weights files, the data sets that they name, and model cards in Markdown."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import UnionType
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

from recordings.resampling import METHODS, PADTYPES
from utils.cli import UserError

KEY = "contract"  # of the metadata in the file's header, for files written before
JOINED = "+"  # between the names of data sets that were converted into one
UNKNOWN = "unknown"  # origin of initial weights whose file does not record it
TWELVE_LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
MAX_LEADS, MAX_FS, MAX_FRAME = 256, 20_000, 2**24  # larger values would exhaust memory
MAX_NUMBER = 1e30  # for means and standard deviations, and its inverse, in float32

ODC_BY = "ODC-By 1.0, https://opendatacommons.org/licenses/by/1-0/"
CC_BY = "CC BY 4.0, https://creativecommons.org/licenses/by/4.0/"
CC_BY_NC_SA = "CC BY-NC-SA 4.0, https://creativecommons.org/licenses/by-nc-sa/4.0/"


class DataSet(NamedTuple):  # of PhysioNet
    title: str
    licence: str
    citation: str
    classes: Mapping[str, str] = {}  # descriptions of classes whose names are abbreviations
    band: tuple[float, float] | None = None  # Hz; of a device with a narrower passband than others
    leads: tuple[str, ...] | None = None  # their order, where there are several


DATA_SETS = {
    "challenge17": DataSet("the PhysioNet/Computing in Cardiology Challenge 2017", ODC_BY,
        "Clifford et al. 2017, doi:10.22489/CinC.2017.065-469", band=(0.5, 40), classes={
        "A": "atrial fibrillation", "N": "normal rhythm", "O": "other rhythm", "~": "too noisy"}),
    "challenge20": DataSet("the PhysioNet/Computing in Cardiology Challenge 2020", CC_BY,
        "Perez Alday et al. 2020, doi:10.1088/1361-6579/abc960", leads=TWELVE_LEADS),
    "icentia11k": DataSet("the Icentia11k Continuous ECG Database", CC_BY_NC_SA,
        "Tan et al. 2022, doi:10.13026/kk0v-r952"),
    "mitdb": DataSet("the MIT-BIH Arrhythmia Database", ODC_BY,
        "Moody & Mark 2001, doi:10.13026/C2F305"),
    "svdb": DataSet("the MIT-BIH Supraventricular Arrhythmia Database", ODC_BY,
        "Greenwald 1990, doi:10.13026/C2V30W"),
    "ptbxl": DataSet("PTB-XL", CC_BY,
        "Wagner et al. 2020, doi:10.1038/s41597-020-0495-6", leads=TWELVE_LEADS),
}  # fmt: skip


@dataclass(frozen=True)
class Metadata:
    """All that is needed to rebuild a network and to prepare its input."""

    architecture: str  # with `stages` and `in_channels`: arguments of `models.build_encoder`
    stages: int | None
    in_channels: int
    fs: float  # Hz
    unit: str  # of the signal before normalisation
    mean: float | list[float] | None  # in that unit, of all leads or each; None: of each input
    sd: float | list[float] | None
    frame_size: int  # samples of one input
    task: str  # training objective
    classes: list[str]  # in the order of the logits
    dataset: str  # training data; `mitdb+svdb` of joined sets
    manifest_sha256: str  # of the training data's manifest; of imported weights, of their files
    seed: int | None
    versions: dict[str, str]  # of the libraries
    spectrogram: dict[str, int | str] | None = None  # fields of `SpectrogramSettings`, if 2-D
    multi_label: bool = False  # sigmoid instead of softmax
    context: dict[str, int] | None = None  # settings of the CPC objective
    temperature: float = 1.0  # divisor of the logits that calibrates them (Guo et al. 2017)
    derived_from: list[str] | None = None  # data sets of the initial weights; None: not known
    resampling: str = "polyphase"  # with `padtype`: how a classifier's recordings were, and are to
    padtype: str = "constant"  # be, brought to `fs`, see `recordings.resampling`

    @property
    def lineage(self) -> list[str]:
        """All data sets that the weights were made from, the earliest first."""
        before = [UNKNOWN] if self.derived_from is None else self.derived_from
        return list(dict.fromkeys([*before, *self.dataset.split(JOINED)]))

    def to_header(self) -> dict[str, str]:
        # One entry only: safetensors writes several in no fixed order.
        return {KEY: json.dumps(asdict(self), sort_keys=True)}

    @classmethod
    def from_header(cls, header: Mapping[str, str], source: object) -> "Metadata":
        """Read the metadata in the header of the file `source`; raises `UserError` if they are
        missing, of the wrong type, or out of range."""
        try:
            values = json.loads(header[KEY])
            types = get_type_hints(cls)
            m = cls(**{name: values[name] for name in types if name in values})
            wrong = [name for name in types if not _has_type(getattr(m, name), types[name])]
            for name in wrong or m._out_of_range():
                raise ValueError(f"{name} {str(getattr(m, name))[:40]!r}")
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            problem = f"holds no weights of this project (metadata: {error})"
            raise UserError(f"{source} {problem}") from None
        return m

    def _out_of_range(self) -> list[str]:
        means, sds = (v if isinstance(v, list) else [v] for v in (self.mean, self.sd))
        valid = {
            "in_channels": 0 < self.in_channels <= MAX_LEADS,
            "fs": 1 <= self.fs <= MAX_FS,
            "unit": self.unit == "mV",
            "mean": len(means) in (1, self.in_channels) and (None in means) == (None in sds),
            "sd": len(sds) == len(means) and all(sd is None or sd > 1 / MAX_NUMBER for sd in sds),
            "frame_size": 0 < self.frame_size <= MAX_FRAME,
            "classes": len(set(self.classes)) == len(self.classes),
            "resampling": self.resampling in METHODS,
            "padtype": self.padtype in PADTYPES,
            "temperature": self.temperature > 1 / MAX_NUMBER,
        }
        return [name for name, holds in valid.items() if not holds]


def _has_type(value: Any, kind: Any) -> bool:
    """Whether a value from JSON is of a type such as `float`, `list[str]` or `int | None`."""
    if isinstance(kind, UnionType):
        return any(_has_type(value, option) for option in get_args(kind))
    if origin := get_origin(kind):  # list[...] or dict[str, ...]
        items = value.values() if type(value) is dict else value
        return type(value) is origin and all(_has_type(v, get_args(kind)[-1]) for v in items)
    if kind is float:
        return type(value) in (int, float) and abs(value) < MAX_NUMBER
    return type(value) is kind


def render(name: str, state: Mapping, m: Metadata, data: Mapping = {}, scores: Mapping = {}) -> str:
    """Model card as Markdown of the weights file `name`; `data` are further rows on the data, and
    `scores` the content of `scores.json`, of which the part `train` is left out."""
    known = DATA_SETS[m.dataset].classes if m.dataset in DATA_SETS else {}
    classifier = m.task == "classification"
    about = {
        "classes": [f"{c} ({known[c]})" if c in known else c for c in m.classes],
        "fs": f"{m.fs:g} Hz",
        "derived_from": UNKNOWN if m.derived_from is None else m.derived_from or "random weights",
        "padtype": m.padtype if classifier else None,
        "resampling": m.resampling if classifier else None,
        "content": "encoder" if all(k.startswith("encoder.") for k in state) else "encoder, head",
        "parameters": sum(tensor.numel() for tensor in state.values()),
    }
    predicts = classifier and "head.weight" in state
    load = "finetuning.predict.Predictor.load" if predicts else "utils.weights.load_encoder"
    return f"""# {m.architecture}, {m.task}, {m.dataset}
A neural network for electrocardiograms. **Not a medical device.** Load it with `{load}("{name}")`.

## Metadata
{_rows(asdict(m) | about | data)}

The network takes (signal - mean) / sd at this rate, with zeros in front of short recordings.
Probabilities are the softmax (multi_label: sigmoid) of logits / temperature.

## Licences
{"".join(map(_licence_notice, m.lineage))}
## Scores
{_rows({k: v for k, v in scores.items() if k != "train"}) or "None."}

## Intended use and limits
For research on ECG classification; not for diagnosis, monitoring or treatment. With devices, leads,
electrode positions, ages or diseases other than those of the training data, predictions may be
wrong with high confidence; every input is assigned to a class. The training labels contain errors.
"""


def _licence_notice(dataset: str) -> str:
    """Notice that weights made from this data set have to carry, a line of Markdown."""
    if dataset not in DATA_SETS:
        return f"- {dataset}: no known public data set; further licences may apply.\n"
    title, licence, citation, *_ = DATA_SETS[dataset]
    cited = f"{citation}; Goldberger et al. 2000, doi:10.1161/01.CIR.101.23.e215"
    notice = f"Contains information from {title}, made available under {licence} ({cited})."
    return f"- {dataset}: {notice}{' **For non-commercial use only.**' * ('NC' in licence)}\n"


def _rows(values: Mapping[str, Any], prefix: str = "") -> str:
    """`{"f1": {"A": 0.5, "N": None}, "leads": [1, 2]}` to `- f1 A: 0.5` and `- leads: 1, 2`."""
    rows = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            rows.append(_rows(value, f"{prefix}{name} "))
        elif value not in (None, []):
            parts = value if isinstance(value, list) else [value]
            texts = (f"{part:.6g}" if type(part) is float else str(part) for part in parts)
            rows.append(f"- {prefix}{name}: {', '.join(texts)}")
    return "\n".join(filter(None, rows))
