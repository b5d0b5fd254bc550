"""Recognise the network that a TensorFlow checkpoint holds, and rename its variables.

The variable names are those of Keras 2's object-based checkpoints: 1-D networks and CPC of Weimann
& Conrad, the 2-D network of the replication.
"""

import itertools
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from models import ENCODERS, Classifier, build_encoder
from models.resnet1d import FILTERS
from pretraining.cpc import CPC
from utils.cli import UserError
from utils.weights import check_match

ENCODER, CPC_MODEL = "encoder", "CPC model"
PRETRAINING, FINE_TUNED = "pretraining classifier", "fine-tuned classifier"
OF_TRAINING = re.compile(r"(optimizer|keras_api|save_counter)/|.*/\.OPTIMIZER_SLOT/")
IN_CLASSIFIER = "layer_with_weights-0/layer_with_weights-0/"  # encoder of a pretraining classifier
RENAMES = (  # applied in this order
    (r"/\.ATTRIBUTES/VARIABLE_VALUE$", ""),
    (
        rf"^({IN_CLASSIFIER}|signal_embedding/layer_with_weights-0/|layer_with_weights-0/)",
        "encoder/",
    ),
    (r"^layer_with_weights-1/", "head/"),
    (r"^attn_pooling/pool_token_embedding$", "pool_token"),
    (r"^attn_pooling/transformer/enc_layers/", "layers/"),
    (r"/mha/W_q/", "/query/"),
    (r"/mha/W_k/", "/key/"),
    (r"/mha/W_v/", "/value/"),
    (r"/mha/W_o/", "/out/"),
    (r"/layernorm(\d)/", r"/norm\1/"),
    (r"/res_(\d+)_(\d+)/", lambda at: f"/stages/{int(at[1]) - 1}/{int(at[2]) - 1}/"),
    (r"/(conv|bn)_(\d)/", r"/\1\2/"),
    (r"/init_bn/", "/bn1/"),
    (r"/(proj|res)_conv/", "/shortcut/0/"),
    (r"/(proj|res)_bn/", "/shortcut/1/"),
    (r"/(kernel|gamma)$", "/weight"),
    (r"/beta$", "/bias"),
    (r"/moving_mean$", "/running_mean"),
    (r"/moving_variance$", "/running_var"),
)
# (in, out), (k, in, out) and (kh, kw, in, out) to PyTorch's order.
AXES = {2: (1, 0), 3: (2, 1, 0), 4: (3, 2, 0, 1)}


class Network(NamedTuple):
    """Network of a checkpoint.

    Attributes:
        kind: one of the four constants above.
        classes: number of classes; 0 without a dense layer.
        model: names and shapes only, on the meta device; its attribute `encoder` is the encoder.
        state: its state_dict, without batch counters.
    """

    kind: str
    architecture: str
    stages: int
    classes: int
    model: nn.Module
    state: dict[str, Tensor]


def recognise(variables: Mapping[str, np.ndarray], path: Path) -> Network:
    """Find the network that has exactly these variables.

    Args:
        variables: by name, as `read_checkpoint` returns them; those of the optimizer are ignored.
        path: for messages.

    Raises:
        UserError: there is no such network, or a value is not finite.
    """
    originals = rename([name for name in variables if not OF_TRAINING.match(name)], variables, path)
    state = {name: _to_tensor(variables[original]) for name, original in originals.items()}
    head, classes = state.get("head.weight"), 0
    with torch.device("meta"):  # drawing initial weights would take seconds
        architecture, stages, encoder = _find_encoder(state, originals, path)
        if "pool_token" in state:
            kind, model = CPC_MODEL, CPC(encoder, 1, torch.Generator())
        elif head is None:
            kind, model = ENCODER, nn.ModuleDict({"encoder": encoder})
        else:
            pretraining = any(name.startswith(IN_CLASSIFIER) for name in variables)
            kind, classes = PRETRAINING if pretraining else FINE_TUNED, len(head)
            model = Classifier(encoder, classes, torch.Generator())
    unknown = [originals[name] for name in state.keys() - model.state_dict().keys()]
    if unknown:
        raise UserError(
            f"{path} holds variables of no network known here: {len(unknown)}, first {min(unknown)}"
        )
    check_match(model, state, path)
    for name, value in state.items():
        if not value.isfinite().all():
            raise UserError(f"{path}: {originals[name]} holds values that are not finite")
    return Network(kind, architecture, stages, classes, model, state)


def rename(names: list[str], variables: Mapping[str, np.ndarray], path: Path) -> dict[str, str]:
    """Original names by state_dict names; unknown variables get names that no network has."""
    renamed = {}
    for name in names:
        new = name
        for pattern, replacement in RENAMES:
            new = re.sub(pattern, replacement, new)
        renamed[name] = new
    # 1-D blocks are numbered through all stages: their filters tell which stage they belong to.
    filters = {new: variables[name].shape[-1:] for name, new in renamed.items()}
    places, first = {}, {}
    for number in itertools.count():
        (width,) = filters.get(f"encoder/blocks/{number}/conv1/weight") or (None,)
        if width not in FILTERS:
            break
        stage = FILTERS.index(width)
        place = number - first.setdefault(stage, number)
        places[f"/blocks/{number}/"] = f"/stages/{stage}/{place}/"
    originals = {}
    for name, new in renamed.items():
        new = re.sub(r"/blocks/\d+/", lambda at: places.get(at[0], at[0]), new).replace("/", ".")
        if new in originals:
            raise UserError(f"{path} holds {name} and {originals[new]}: one tensor")
        originals[new] = name
    return originals


def _to_tensor(value: np.ndarray) -> Tensor:
    return torch.tensor(np.ascontiguousarray(value.transpose(AXES.get(value.ndim)), np.float32))


def _find_encoder(
    state: Mapping[str, Tensor], originals: Mapping[str, str], path: Path
) -> tuple[str, int, nn.Module]:
    """Architecture, stages and encoder: among those with as many blocks in each stage, the one that
    shares most tensors."""
    places = {tuple(name.split(".")[2:4]) for name in state if name.startswith("encoder.stages.")}
    blocks = Counter(int(stage) for stage, _ in places)
    stages, kernel = len(blocks), state.get("encoder.conv1.weight")
    if not blocks or kernel is None or kernel.ndim < 3:
        first = next(iter(originals.values()), "none")
        raise UserError(f"{path} holds no network known here; its first variable: {first}")
    fitting = {
        name: build_encoder(name, kernel.shape[1], stages, None)
        for name, known in ENCODERS.items()
        if known.spectral == (kernel.ndim == 4) and dict(enumerate(known.blocks[:stages])) == blocks
    }
    if not fitting:
        counts = ", ".join(str(blocks[stage]) for stage in sorted(blocks))
        raise UserError(f"{path}: no network known here has stages of {counts} blocks")

    def shared(name: str) -> int:
        return sum(f"encoder.{tensor}" in state for tensor in fitting[name].state_dict())

    architecture = max(fitting, key=shared)
    return architecture, stages, fitting[architecture]
