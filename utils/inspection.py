"""What a weights file or the checkpoint of a run contains, in plain words."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from utils import card
from utils.cli import LONGEST, UserError, plain
from utils.contract import KEY, Contract
from utils.datasets import licences
from utils.files import sha256
from utils.weights import read_tensors

RUN = "run"  # key of a checkpoint's metadata, see `utils.training`


def show(path: Path, each: bool = False) -> None:
    """Print it.

    Args:
        each: print name, shape and type of each tensor, too.

    Raises:
        UserError: it is neither.
    """
    tensors, metadata = read_tensors(path)
    if RUN in metadata and KEY not in metadata:
        described = of_run(metadata[RUN], path)
    else:
        described = of_weights(tensors, Contract.from_metadata(metadata, str(path)))
    rows = described | of_file(path, tensors)
    width = max(map(len, rows))
    for name, value in rows.items():
        print(_line(f"{name:{width}}  {value}"))
    if each:
        width = max(map(len, tensors), default=0)
        for name, tensor in tensors.items():
            print(_line(f"{name:{width}}  {_type(tensor):8} {list(tensor.shape)}"))


def of_weights(tensors: Mapping[str, Tensor], contract: Contract) -> dict[str, str]:
    """Its contract, field by field."""
    return {
        **card.network(tensors, contract),
        **card.interface(tensors, contract),
        **card.origin(contract),
        "licences": licences(contract.lineage),
    }


def of_run(text: str, path: Path) -> dict[str, str]:
    """Where a run stands that is not finished.

    Args:
        text: what `utils.training` wrote of it.

    Raises:
        UserError: it did not write this.
    """
    try:
        run = json.loads(text)
        identity, totals = run["identity"], run["totals"]
        chosen = {name: best["epoch"] for name, best in run["log"]["bests"].items()}
        return {
            "run": f"not finished, after step {totals['step']} of epoch {run['epoch']}; the same "
            "command with --resume continues",
            "best epochs": ", ".join(f"{epoch} ({name})" for name, epoch in chosen.items()),
            "network": f"{identity['architecture']}, {identity['task']}",
            "trained on": f"{identity['dataset']}, seed {identity['seed']}",
            "precision": "bf16" if identity["bf16"] else "fp32",
            "processes": str(identity["processes"]),
        }
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        raise UserError(f"{path} holds no state of a run of this project") from None


def of_file(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Its tensors by type, its size and checksum."""
    types = Counter(map(_type, tensors.values()))
    counted = ", ".join(f"{count} of {kind}" for kind, count in types.items())
    return {
        "tensors": f"{len(tensors)}: {counted}" if tensors else "none",
        "size": f"{path.stat().st_size:,} bytes",
        "SHA-256": sha256(path),
    }


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _line(text: str) -> str:
    return plain(text if len(text) <= LONGEST else f"{text[:LONGEST]} …")
