"""Figures measured in turns, shown as a table and saved with what they were measured on."""

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch

from utils.files import write_json
from utils.run import versions

Figures = Mapping[str, Sequence[float]]  # of each variant, one for each repeat


def seconds(action: Callable[[], object]) -> float:
    """How long `action` takes."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def in_turns(variants: Mapping[str, Callable[[], float]], repeats: int) -> Figures:
    """Figures of all variants, which take turns: a drift of the machine's speed hits all alike."""
    figures: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(repeats):
        for name, measure in variants.items():
            figures[name].append(measure())
    return figures


def show(unit: str, figures: Figures, reference: str, digits: int = 1) -> None:
    """Median, lowest and highest of each variant, and its median by that of `reference`."""
    base = statistics.median(figures[reference])
    width = max(map(len, figures))
    print(f"{unit:{width}}{'median':>12}{'lowest':>12}{'highest':>12}{'ratio':>8}")
    for name, values in figures.items():
        median = statistics.median(values)
        row = "".join(f"{v:12,.{digits}f}" for v in (median, min(values), max(values)))
        print(f"{name:{width}}{row}{median / base:8.2f}")


def save(args: argparse.Namespace, device: torch.device, **figures: Any) -> None:
    """Write figures to `--out`, if it is given, with the flags, the machine and the versions."""
    if args.out is None:
        return
    settings = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in vars(args).items()
        if name != "out"
    }
    today = date.today().isoformat()
    about = {"date": today, "machine": describe(device), "versions": versions(), "flags": settings}
    write_json(args.out, {**about, **figures})
    print(f"saved: {args.out}")


def describe(device: torch.device) -> str:
    """The GPU's name, or the processor's kind, instruction set and threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    kind = torch.backends.cpu.get_cpu_capability()
    native = [name for name, has in torch.cpu.get_capabilities().items() if has and "bf16" in name]
    words = [
        _processor(),
        f"{platform.machine()} {kind}",
        *native,
        f"{torch.get_num_threads()} threads",
    ]
    return ", ".join(filter(None, words))


def _processor() -> str:
    """Its name, where Linux tells it."""
    known = Path("/proc/cpuinfo")
    lines = known.read_text().splitlines() if known.exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "")
