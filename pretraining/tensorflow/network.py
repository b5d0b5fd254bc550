"""Which network the variables of a checkpoint belong to."""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from models import ENCODERS, Classifier, build_encoder
from pretraining.cpc import CPC
from pretraining.tensorflow.names import IN_CLASSIFIER, Variable, translate
from utils.cli import UserError
from utils.weights import check_match

ENCODER, CPC_MODEL = "encoder", "CPC model"
PRETRAINING, FINE_TUNED = "pretraining classifier", "fine-tuned classifier"
BLOCK = re.compile(r"encoder\.stages\.(\d+)\.(\d+)\.")


class Network(NamedTuple):
    """What a checkpoint holds; `classes` is 0 where there is no dense layer."""

    kind: str
    architecture: str
    stages: int
    classes: int
    model: nn.Module  # names and shapes only, on the meta device; has an `encoder`
    state: dict[str, Tensor]  # its values


def recognise(variables: Mapping[str, np.ndarray], path: Path) -> Network:
    """The network that has these variables.

    Raises:
        UserError: no network known here has all of them and no others; `path` is named.
    """
    tensors = translate(variables, path)
    head, classes = tensors.get("head.weight"), 0
    with torch.device("meta"):  # to draw initial weights would take seconds
        architecture, stages, encoder = _find_encoder(tensors, path)
        if "pool_token" in tensors:
            kind, model = CPC_MODEL, CPC(encoder, 1, torch.Generator())
        elif head is None:
            kind, model = ENCODER, nn.ModuleDict({"encoder": encoder})
        else:
            pretraining = any(name.startswith(IN_CLASSIFIER) for name in variables)
            kind, classes = PRETRAINING if pretraining else FINE_TUNED, len(head.value)
            model = Classifier(encoder, classes, torch.Generator())
    own = model.state_dict()
    strange = [variable.name for name, variable in tensors.items() if name not in own]
    if strange:
        raise UserError(
            f"{path} holds variables of no network known here: {len(strange)}, first {strange[0]}"
        )
    state = {name: torch.tensor(variable.value) for name, variable in tensors.items()}
    check_match(model, state, path)
    for name, variable in tensors.items():
        if not state[name].isfinite().all():
            raise UserError(f"{path}: {variable.name} is not finite everywhere; get the file again")
    return Network(kind, architecture, stages, classes, model, state)


def _find_encoder(tensors: Mapping[str, Variable], path: Path) -> tuple[str, int, nn.Module]:
    """Architecture, stages and encoder: of those with as many blocks in each stage, the one that
    has most of the tensors."""
    places = {place.groups() for place in map(BLOCK.match, tensors) if place}
    blocks = Counter(int(stage) for stage, _ in places)
    stages, kernel = len(blocks), tensors.get("encoder.conv1.weight")
    if not blocks or kernel is None or kernel.value.ndim < 3:
        first = next((variable.name for variable in tensors.values()), "none")
        raise UserError(f"{path} holds no network known here; its first variable: {first}")
    _, in_channels, *size = kernel.value.shape
    fitting = {
        name: build_encoder(name, in_channels, stages, torch.Generator())
        for name, known in ENCODERS.items()
        if known.spectral == (len(size) == 2) and dict(enumerate(known.blocks[:stages])) == blocks
    }
    if not fitting:
        found = ", ".join(str(blocks[stage]) for stage in sorted(blocks))
        raise UserError(f"{path}: no network known here has stages of {found} blocks")

    def shared(name: str) -> int:
        return sum(f"encoder.{tensor}" in tensors for tensor in fitting[name].state_dict())

    architecture = max(fitting, key=shared)
    return architecture, stages, fitting[architecture]
