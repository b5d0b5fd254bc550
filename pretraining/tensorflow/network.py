"""Which network a checkpoint's variables belong to."""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from pretraining.cpc import CPC
from pretraining.tensorflow.names import IN_CLASSIFIER, Variable, translate
from utils.checkpoint import load_strictly
from utils.cli import UserError
from utils.encoders import ENCODERS, Classifier, build_encoder
from utils.residual import FILTERS

ENCODER, CPC_MODEL = "encoder", "CPC model"
PRETRAINING, FINE_TUNED = "pretraining classifier", "fine-tuned classifier"
BLOCK = re.compile(r"encoder\.stages\.(\d+)\.(\d+)\.")


class Network(NamedTuple):
    """What a checkpoint holds; `classes` is 0 where there is no dense layer."""

    kind: str
    architecture: str
    stages: int
    in_channels: int
    classes: int
    model: nn.Module  # has an `encoder`


def rebuild(variables: Mapping[str, np.ndarray], path: Path) -> Network:
    """The network that has these variables, with their values.

    Raises:
        UserError: no network known here has all of them and no others; `path` is named.
    """
    tensors = translate(variables)
    architecture, stages, encoder = _find_encoder(tensors, path)
    in_channels = encoder.conv1.weight.shape[1]
    head, classes = tensors.get("head.weight"), 0
    if "pool_token" in tensors:
        kind, model = CPC_MODEL, CPC(encoder, 1, torch.Generator())
    elif head is None:
        kind, model = ENCODER, nn.ModuleDict({"encoder": encoder})
    else:
        classes, width = len(head.value), encoder.out_features
        if head.value.shape != (classes, width):
            raise UserError(f"{path}: {head.name} does not fit features of {width}")
        kind = PRETRAINING if any(n.startswith(IN_CLASSIFIER) for n in variables) else FINE_TUNED
        model = Classifier(encoder, classes, torch.Generator())
    _load(model, tensors, path)
    return Network(kind, architecture, stages, in_channels, classes, model)


def _find_encoder(tensors: Mapping[str, Variable], path: Path) -> tuple[str, int, nn.Module]:
    """Architecture, stages and a new encoder: of those with as many blocks in each stage, the one
    that has most of the tensors."""
    blocks = Counter(
        int(stage) for stage, _ in {m.groups() for m in map(BLOCK.match, tensors) if m}
    )
    kernel = tensors["encoder.conv1.weight"].value if "encoder.conv1.weight" in tensors else None
    if not blocks or kernel is None or kernel.ndim < 3 or len(kernel) != FILTERS[0]:
        first = next((variable.name for variable in tensors.values()), "none")
        raise UserError(f"{path} holds no network known here; its first variable: {first}")
    stages = len(blocks)
    fitting = {
        name: build_encoder(name, kernel.shape[1], stages, torch.Generator())
        for name, known in ENCODERS.items()
        if known.spectral == (kernel.ndim == 4) and dict(enumerate(known.blocks[:stages])) == blocks
    }
    if not fitting:
        found = ", ".join(str(blocks[stage]) for stage in sorted(blocks))
        raise UserError(f"{path}: no network known here has stages of {found} blocks")

    def shared(name: str) -> int:
        return sum(f"encoder.{tensor}" in tensors for tensor in fitting[name].state_dict())

    architecture = max(fitting, key=shared)
    return architecture, stages, fitting[architecture]


def _load(model: nn.Module, tensors: Mapping[str, Variable], path: Path) -> None:
    own = model.state_dict()
    strange = [variable.name for name, variable in tensors.items() if name not in own]
    if strange:
        raise UserError(
            f"{path} holds variables of no network known here: {len(strange)}, first {strange[0]}"
        )
    values = {name: torch.tensor(variable.value) for name, variable in tensors.items()}
    load_strictly(model, values, path)
