"""Learning rate by step: a function of the position, so that a resumed run needs no state of it."""

import math


def warmup_steps(warmup: float, steps: int) -> int:
    """Steps of `--warmup`, which is a share of all `steps` or their number."""
    return round(warmup * steps) if 0 < warmup < 1 else int(warmup)


def rate(step: int, steps: int, kind: str = "constant", warmup: int = 0) -> float:
    """Share of the learning rate that a step has: it rises for `warmup` steps, then stays, or falls
    along half a cosine towards 0 (Loshchilov & Hutter 2017).

    Args:
        step: steps before this one. steps: of the whole run. kind: constant or cosine.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if kind == "constant":
        return 1.0
    return (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1))) / 2
