"""What a weights file says of itself: all that is needed to rebuild the network and feed it."""

import json
from collections.abc import Callable
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

from utils.cli import UserError
from utils.datasets import UNKNOWN, members

KEY = "contract"
LEADS, FS, FRAME = 256, 20_000, 2**24  # at most; more leads, Hz or samples take all memory
LARGEST = 1e30  # mean and deviation, and the same below one: float32 holds little more


@dataclass(frozen=True)
class Contract:
    """One line of JSON in the file's metadata; holds no times, paths or host names.

    Attributes:
        architecture, stages, in_channels: the encoder, see `models`.
        fs: Hz. unit: of the signal before normalisation. mean, sd: in that unit;
            lists have one for each lead. None: each input is standardised by its own.
        frame_size: samples of one input.
        task, classes: what it was trained for, in the order of the logits.
        multi_label: whether an input may have several classes: sigmoid instead of softmax.
        dataset, manifest_sha256: what it was trained on; of imported weights, the sum of the files
            that they come from.
        seed: of the run, where it is known. versions: of the libraries.
        spectrogram: settings of 2-D networks, see `models.spectrogram`.
        context: of CPC, its flags: frames of context, their overlap, the offset, other candidates.
        temperature: that logits are divided by, so that probabilities are as often right as they
            say (Guo et al. 2017).
        derived_from: data sets of the weights that training began with, the earliest first; empty
            where they were random, None where nobody knows.
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
        """All data sets that the weights were made from, the earliest first; each may ask for
        something, see `utils.datasets`."""
        before = [UNKNOWN] if self.derived_from is None else self.derived_from
        return list(dict.fromkeys([*before, *members(self.dataset)]))

    def to_metadata(self) -> dict[str, str]:
        """One key only: safetensors writes several in no fixed order."""
        return {KEY: json.dumps(asdict(self), sort_keys=True)}

    @classmethod
    def from_metadata(cls, metadata: dict[str, str] | None, source: str) -> "Contract":
        """Raises `UserError` where the metadata of the file `source` is not a contract."""
        try:
            values = json.loads((metadata or {})[KEY])
            needed = {field.name for field in fields(cls) if field.default is MISSING}
            known = needed | values.keys() & {field.name for field in fields(cls)}
            contract = cls(**{name: values[name] for name in known})
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
            raise UserError(f"{source} holds no weights of this project (no contract)") from None
        for name, holds in RULES.items():
            if not holds(getattr(contract, name), contract):
                raise UserError(
                    f"{source} holds no weights of this project (its contract says "
                    f"{name} {str(getattr(contract, name))[:40]!r})"
                )
        return contract


def _count(most: int) -> Callable[[Any, Contract], bool]:
    return lambda value, _: type(value) is int and 0 < value <= most


def _is(*kinds: type) -> Callable[[Any, Contract], bool]:
    return lambda value, _: type(value) in kinds


def _are_constants(value: Any, contract: Contract) -> bool:
    """A number, or one for each lead; neither mean nor deviation where inputs have their own."""
    if contract.mean is None and contract.sd is None:
        return True
    values = value if isinstance(value, list) else [value] * contract.in_channels
    numbers = all(type(number) in (int, float) and abs(number) < LARGEST for number in values)
    return numbers and len(values) == contract.in_channels


def _are_names(value: Any, _: Contract) -> bool:
    texts = isinstance(value, list) and all(type(name) is str for name in value)
    return texts and len(set(value)) == len(value)


# What each value of a file has to be; in this order, as later ones rely on earlier.
RULES: dict[str, Callable[[Any, Contract], bool]] = {
    "architecture": _is(str),
    "stages": lambda value, _: value is None or type(value) is int,  # how many: `build_encoder`
    "in_channels": _count(LEADS),
    "fs": lambda value, _: type(value) in (int, float) and 1 <= value <= FS,
    "unit": lambda value, _: value == "mV",
    "mean": _are_constants,
    "sd": lambda value, contract: (
        _are_constants(value, contract)
        and (value is None or min(value if isinstance(value, list) else [value]) > 1 / LARGEST)
    ),
    "frame_size": _count(FRAME),
    "task": _is(str),
    "classes": _are_names,
    "dataset": _is(str),
    "manifest_sha256": _is(str),
    "seed": _is(int, type(None)),
    "versions": _is(dict),
    "spectrogram": _is(dict, type(None)),  # its settings: `models.spectrogram`
    "multi_label": _is(bool),
    "context": _is(dict, type(None)),
    "temperature": lambda value, _: type(value) in (int, float) and 1 / LARGEST < value < LARGEST,
    "derived_from": lambda value, contract: value is None or _are_names(value, contract),
}
