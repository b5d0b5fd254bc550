"""Copies of weights in half precision (float16): half the bytes, to be shipped."""

import re
from pathlib import Path

from torch import Tensor

from utils import card
from utils.files import sha256, write_text
from utils.names import CARD
from utils.weights import read_weights, save_weights

ROUNDING = 2**-11  # of a number in float16's normal range, relative to it, at most
NOTE = (
    "The kernels are stored in half precision (float16) and computed with in float32; scores are "
    "those of the weights before they were rounded."
)


def store_half(weights: Path, out: Path) -> None:
    """Write a copy of `weights`, its card, and its line in the folder's SHA256SUMS.

    The contract is the same; `read_weights` gives float32 again.

    Raises:
        UserError: `weights` are none.
    """
    tensors, contract = read_weights(weights)
    text = _earlier_card(weights) or card.render(weights.name, tensors, contract, {}, {})
    save_weights(out, {name: halved(tensor) for name, tensor in tensors.items()}, contract)
    write_sum(out)
    write_text(card.card_beside(out), _noted(text.replace(weights.name, out.name)))


def halved(tensor: Tensor) -> Tensor:
    """In float16 where nothing but rounding is lost.

    Vectors stay as they are: batch statistics and biases may be tiny or huge, and are few. So do
    kernels that as a whole change by more than rounding does: those with a number beyond 65,504,
    or so small that too few digits are left.
    """
    half = tensor.half()
    exact = tensor.double()
    change = (half.double() - exact).norm()  # not finite where a number is beyond the range
    return half if tensor.ndim > 1 and change <= ROUNDING * exact.norm() else tensor


def write_sum(path: Path) -> None:
    """Add or replace the line of a file in SHA256SUMS beside it, for `sha256sum -c`."""
    sums = path.with_name("SHA256SUMS")
    lines = sums.read_text(encoding="utf-8").splitlines() if sums.exists() else []
    others = [line for line in lines if re.sub(r"^\w+ [ *]", "", line) != path.name]
    added = sorted([*others, f"{sha256(path)}  {path.name}"], key=lambda line: line[66:])
    write_text(sums, "\n".join(added) + "\n")


def _earlier_card(weights: Path) -> str | None:
    found = [p for p in (card.card_beside(weights), weights.with_name(CARD)) if p.is_file()]
    return found[0].read_text(encoding="utf-8") if found else None


def _noted(text: str) -> str:
    """With the note behind the title."""
    title, _, rest = text.partition("\n")
    return text if NOTE in text else f"{title}\n\n{NOTE}\n{rest}"
