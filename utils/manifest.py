"""Manifests: what went into a data set or a run, and what was left out, as JSON.

What was left out is a list of `{"record": …, "reason": …}`.
"""

import hashlib
import json
import sys
from collections import Counter
from typing import Any

HINTS = {"uncalibrated": " (no gain in the header: 200 units per mV are assumed)"}


def digest(manifest: dict[str, Any]) -> str:
    """SHA-256 of a manifest, the same wherever it was made."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def summary(left_out: list[dict[str, Any]]) -> str:
    """`3 left out: 2 × no .dat, such as p00001_s00; 1 × …`, the commonest reasons first."""
    examples = {out["reason"]: out["record"] for out in reversed(left_out)}
    reasons = Counter(out["reason"] for out in left_out).most_common(3)
    listed = [f"{count} × {reason}, such as {examples[reason]}" for reason, count in reasons]
    more = ["…"] if len(examples) > len(reasons) else []
    return f"{len(left_out)} left out: {'; '.join(listed + more)}"


def counted(flagged: dict[str, list[str]]) -> dict[str, Any]:
    """For a manifest: how many records there are of each kind, and which.

    Args:
        flagged: names of the records that are `constant`, `clipped`.
    """
    return {kind: {"count": len(names), "records": names} for kind, names in flagged.items()}


def report_flagged(flagged: dict[str, list[str]]) -> None:
    """Where there are any, say `used, too: 2 constant signals, such as A00012; 1 clipped …`."""
    words = [
        f"{len(names)} {kind} signal{'s' * (len(names) > 1)}{HINTS.get(kind, '')}, such as "
        f"{names[0]}"
        for kind, names in flagged.items()
        if names
    ]
    if words:
        print(f"used, too: {'; '.join(words)}", file=sys.stderr)
