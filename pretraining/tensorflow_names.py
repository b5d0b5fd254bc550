"""Variables of the earlier TensorFlow code under the names, and in the layout, of this project.

The names are those of Keras 2's object-based checkpoints: 1-D networks and CPC of Weimann & Conrad,
the 2-D network of the replication.
"""

import itertools
import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from utils.cli import UserError
from utils.residual import FILTERS

OF_TRAINING = re.compile(r"(optimizer|keras_api|save_counter)/|.*/\.OPTIMIZER_SLOT/")
IN_CLASSIFIER = "layer_with_weights-0/layer_with_weights-0/"  # an encoder being pretrained
SPELLINGS = (
    (r"/\.ATTRIBUTES/VARIABLE_VALUE$", ""),
    (rf"^(signal_embedding/layer_with_weights-0/|{IN_CLASSIFIER}|layer_with_weights-0/)", "encoder/"),
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
    (r"/moving_(mean|variance)$", r"/running_\1"),
)
# (in, out), (k, in, out) and (kh, kw, in, out), as PyTorch has them.
AXES = {2: (1, 0), 3: (2, 1, 0), 4: (3, 2, 0, 1)}


class Variable(NamedTuple):
    """Name in the checkpoint, value in PyTorch's layout, float32."""

    name: str
    value: np.ndarray


def translate(variables: Mapping[str, np.ndarray]) -> dict[str, Variable]:
    """Variables of the model by this project's names; what only training needs is left out.

    A variable that nothing is known of gets a name that no network has.

    Raises:
        UserError: two variables for one tensor.
    """
    spelled = {
        name: (_spell(name), np.ascontiguousarray(value.transpose(AXES.get(value.ndim)), np.float32))
        for name, value in variables.items()
        if not OF_TRAINING.match(name)
    }
    places = _places(dict(spelled.values()))
    tensors = {}
    for name, (ours, value) in spelled.items():
        ours = re.sub(r"/blocks/\d+/", lambda at: places.get(at[0], at[0]), ours).replace("/", ".")
        if ours in tensors:
            raise UserError(f"{name} and {tensors[ours].name} are for the same tensor, {ours}")
        tensors[ours] = Variable(name, value)
    return tensors


def _spell(name: str) -> str:
    for pattern, spelling in SPELLINGS:
        name = re.sub(pattern, spelling, name)
    return name


def _places(tensors: Mapping[str, np.ndarray]) -> dict[str, str]:
    """1-D blocks are numbered through all stages: the filters tell which stage one belongs to."""
    places, first = {}, {}
    for number in itertools.count():
        kernel = tensors.get(f"encoder/blocks/{number}/conv1/weight")
        if kernel is None or len(kernel) not in FILTERS:
            return places
        stage = FILTERS.index(len(kernel))
        place = number - first.setdefault(stage, number)
        places[f"/blocks/{number}/"] = f"/stages/{stage}/{place}/"
