"""Variables of the earlier TensorFlow code under the names, and in the layout, of this project.

The names are those of Keras 2's object-based checkpoints: 1-D networks and CPC of Weimann & Conrad,
the 2-D network of the replication.
"""

import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from models.resnet1d import FILTERS
from utils.cli import UserError

OF_TRAINING = re.compile(r"(optimizer|keras_api|save_counter)/|.*/\.OPTIMIZER_SLOT/")
IN_CLASSIFIER = "layer_with_weights-0/layer_with_weights-0/"  # an encoder being pretrained
# Applied in this order.
SPELLINGS = (
    (r"/\.ATTRIBUTES/VARIABLE_VALUE$", ""),
    (
        f"^{IN_CLASSIFIER}|^signal_embedding/layer_with_weights-0/|^layer_with_weights-0/",
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


class Variable(NamedTuple):
    """Name in the checkpoint, and float32 value in PyTorch's layout."""

    name: str
    value: np.ndarray


def translate(variables: Mapping[str, np.ndarray], path: Path) -> dict[str, Variable]:
    """Variables of the model by this project's names; those of its training are left out.

    A variable that nothing is known of gets a name that no network has.

    Raises:
        UserError: two variables for one tensor; `path` is named.
    """
    spelled = [
        (_spell(name), Variable(name, _turn(value)))
        for name, value in variables.items()
        if not OF_TRAINING.match(name)
    ]
    places = _places({name: len(variable.value) for name, variable in spelled})
    tensors = {}
    for name, variable in spelled:
        name = re.sub(r"/blocks/\d+/", lambda at: places.get(at[0], at[0]), name).replace("/", ".")
        if name in tensors:
            other = tensors[name].name
            raise UserError(f"{path} holds {variable.name} and {other}: one tensor")
        tensors[name] = variable
    return tensors


def _spell(name: str) -> str:
    for pattern, spelling in SPELLINGS:
        name = re.sub(pattern, spelling, name)
    return name


def _turn(value: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(value.transpose(AXES.get(value.ndim)), np.float32)


def _places(filters: Mapping[str, int]) -> dict[str, str]:
    """1-D blocks are numbered through all stages: their filters tell which stage they belong to."""
    places, first = {}, {}
    for number in itertools.count():
        width = filters.get(f"encoder/blocks/{number}/conv1/weight")
        if width not in FILTERS:
            return places
        stage = FILTERS.index(width)
        place = number - first.setdefault(stage, number)
        places[f"/blocks/{number}/"] = f"/stages/{stage}/{place}/"
