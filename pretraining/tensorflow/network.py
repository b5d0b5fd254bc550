"""Rename the variables of a TensorFlow checkpoint, and find the network that they belong to.

The variable names are those of Keras 2's object-based checkpoints: 1-D networks and CPC of Weimann
& Conrad, the 2-D network of the replication.
"""

import itertools
import re
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
from utils.weights import FIRST_KERNEL, check_match

ENCODER, CPC_MODEL = "encoder", "CPC model"
PRETRAINING, FINE_TUNED = "pretraining classifier", "fine-tuned classifier"
OF_TRAINING = re.compile(r"(optimizer|keras_api|save_counter)/|.*/\.OPTIMIZER_SLOT/")
IN_CLASSIFIER = "layer_with_weights-0/layer_with_weights-0/"  # encoder of a pretraining classifier
RENAMES = (  # applied in this order
    (r"/\.ATTRIBUTES/VARIABLE_VALUE$", ""),
    (f"^{IN_CLASSIFIER}", "encoder/"),
    (r"^(signal_embedding/)?layer_with_weights-0/", "encoder/"),
    (r"^layer_with_weights-1/", "head/"),
    (r"^attn_pooling/pool_token_embedding$", "pool_token"),
    (r"^attn_pooling/transformer/enc_layers/", "layers/"),
    (r"/mha/W_q/", "/query/"),
    (r"/mha/W_k/", "/key/"),
    (r"/mha/W_v/", "/value/"),
    (r"/mha/W_o/", "/out/"),
    (r"/layernorm(\d)/", r"/norm\1/"),
    (r"/res_(\d+)_(\d+)/", lambda match: f"/stages/{int(match[1]) - 1}/{int(match[2]) - 1}/"),
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
        encoder: names and shapes only, on the meta device.
        state: state_dict of the whole network, without batch counters.
    """

    kind: str
    architecture: str
    stages: int
    classes: int
    encoder: nn.Module
    state: dict[str, Tensor]


def recognise(variables: Mapping[str, np.ndarray], path: Path) -> Network:
    """Find the network that has exactly these variables.

    Args:
        variables: by name, as `read_checkpoint` returns them; those of the optimizer are ignored.
        path: for messages.

    Raises:
        UserError: there is no such network, or a value is not finite.
    """
    state = rename(variables, path)
    kernel, head = state.get(FIRST_KERNEL), state.get("head.weight", np.empty(0))
    if kernel is None or kernel.ndim < 3 or head.ndim < 1:
        raise UserError(
            f"{path} holds no network known here; first variable: {min(state, default='none')}"
        )
    if "pool_token" in state:
        kind = CPC_MODEL
    elif not len(head):
        kind = ENCODER
    else:
        pretraining = any(name.startswith(IN_CLASSIFIER) for name in variables)
        kind = PRETRAINING if pretraining else FINE_TUNED

    def build(architecture: str, stages: int) -> nn.Module:
        encoder = build_encoder(architecture, kernel.shape[1], stages, None)
        if kind == CPC_MODEL:
            return CPC(encoder, 1, torch.Generator())
        if kind == ENCODER:
            return nn.ModuleDict({"encoder": encoder})
        return Classifier(encoder, len(head), torch.Generator())

    def mismatches(candidate: tuple[str, int, nn.Module]) -> int:
        shapes = {(name, value.shape) for name, value in candidate[-1].state_dict().items()}
        return len(shapes ^ {(name, value.shape) for name, value in state.items()})

    with torch.device("meta"):  # drawing initial weights would take seconds
        candidates = [
            (architecture, stages, build(architecture, stages))
            for architecture, known in ENCODERS.items()
            for stages in range(1, len(known.blocks) + 1)
        ]
    architecture, stages, model = min(candidates, key=mismatches)
    check_match(model, state, path)
    state = {name: torch.tensor(np.asarray(value, np.float32)) for name, value in state.items()}
    wrong = [name for name, value in state.items() if not value.isfinite().all()]
    if wrong:
        raise UserError(f"{path}: the values of {wrong[0]} are not finite")
    return Network(kind, architecture, stages, len(head), model.encoder, state)


def rename(variables: Mapping[str, np.ndarray], path: Path) -> dict[str, np.ndarray]:
    """Variables by the names that PyTorch's state_dict has, in PyTorch's layout.

    Raises:
        UserError: two variables have one name.
    """
    renamed = []
    for name, value in variables.items():
        if not OF_TRAINING.match(name):
            for pattern, replacement in RENAMES:
                name = re.sub(pattern, replacement, name)
            renamed.append((name, value.transpose(AXES.get(value.ndim))))
    # 1-D blocks are numbered through all stages: their filters tell which stage they belong to.
    filters = {name: len(value) for name, value in renamed if value.ndim}
    stages, first = {}, {}
    for block in itertools.count():
        width = filters.get(f"encoder/blocks/{block}/conv1/weight")
        if width not in FILTERS:
            break
        stage = FILTERS.index(width)
        stages[str(block)] = f"stages/{stage}/{block - first.setdefault(stage, block)}"
    state = {}
    for name, value in renamed:
        name = re.sub(r"\bblocks/(\d+)", lambda match: stages.get(match[1], match[0]), name)
        name = name.replace("/", ".")
        if name in state:
            raise UserError(f"{path} holds two variables for {name}")
        state[name] = value
    return state
