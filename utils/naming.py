"""What a batch was made of, in a few words, for errors."""

from collections.abc import Sequence

import numpy as np

SHOWN = 3


def few(names: Sequence[str], finite: np.ndarray, what: str) -> str:
    """`a, b, c, … (64 frames)`; where some are not finite these: `b (1 of 64 frames, not finite)`.

    Args:
        names: of all. finite: of each, whether all of its values are, (n,). what: they are.
    """
    bad = [name for name, good in zip(names, finite, strict=True) if not good]
    count = f"{len(bad)} of {len(names)} {what}, not finite" if bad else f"{len(names)} {what}"
    chosen = bad or names
    more = ["…"] if len(chosen) > SHOWN else []
    return f"{', '.join([*chosen[:SHOWN], *more])} ({count})"
