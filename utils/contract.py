"""What a weights file says of itself: all that is needed to rebuild the network and feed it."""

import json
from dataclasses import MISSING, asdict, dataclass, fields

from utils.cli import UserError

KEY = "contract"


@dataclass(frozen=True)
class Contract:
    """One line of JSON in the file's metadata; holds no times, paths or host names.

    Attributes:
        architecture, stages, in_channels: the encoder, see `utils.encoders`.
        fs: Hz. unit: of the signal before normalisation. mean, sd: in that unit;
            lists have one for each lead. None: each input is standardised by its own.
        frame_size: samples of one input.
        task, classes: what it was trained for, in the order of the logits.
        multi_label: whether an input may have several classes: sigmoid instead of softmax.
        dataset, manifest_sha256: what it was trained on; of imported weights, the sum of the files
            that they come from.
        seed: of the run, where it is known. versions: of the libraries.
        spectrogram: settings of 2-D networks, see `utils.spectrogram`.
        context: of CPC, its flags: frames of context, their overlap, the offset, other candidates.
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
            return cls(**{name: values[name] for name in known})
        except (AttributeError, KeyError, TypeError, ValueError):
            raise UserError(f"{source} holds no weights of this project (no contract)") from None
