"""One training step, timed in the variants that are to be compared."""

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from utils.encoders import Classifier, build_encoder
from utils.engine import Batch, Hardware, choose_hardware, native_bf16, train_epoch
from utils.files import write_json

PLAIN = "plain fp32, Conv1d"  # as PyTorch computes it by default: with TF32 on CUDA
FAST = "bf16, channels-last"


def measure(args: argparse.Namespace) -> dict[str, float]:
    """Time the variants in turns, print the table, write the JSON; median frames/s of each."""
    hardware = choose_hardware(args.device, "fp32")
    variants = {PLAIN: make_step(args, hardware, channels_last=False)}
    if native_bf16(hardware.device):
        variants[FAST] = make_step(args, hardware._replace(bf16=True), channels_last=True)
    steps = {name: round(args.seconds / timed(run, 1)) + 1 for name, run in variants.items()}
    speeds: dict[str, list[float]] = {name: [] for name in variants}
    # They take turns, so that a drift of the machine's speed hits all alike.
    for _ in range(args.repeats):
        for name, run in variants.items():
            speeds[name].append(steps[name] * args.batch_size / timed(run, steps[name]))
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    machine = describe_machine(hardware.device)
    print(f"{args.arch}, frame {args.frame_size}, batch {args.batch_size}; {machine}")
    print(f"{'':22}{'frames/s':>10}{'lowest':>10}{'highest':>10}{'ratio':>8}")
    for name, values in speeds.items():
        row = (medians[name], min(values), max(values))
        print(f"{name:22}" + "".join(f"{v:10.1f}" for v in row) + f"{row[0] / medians[PLAIN]:8.2f}")
    if FAST not in variants:
        print(f"{FAST:22}not measured: no native bf16 here (avx512_bf16, AMX or CUDA)")
    if args.out:
        settings = {name: getattr(args, name) for name in ("arch", "frame_size", "batch_size")}
        about = {"machine": machine, "torch": torch.__version__, **settings}
        write_json(args.out, {**about, "frames_per_second": speeds, "median": medians})
    return medians


def timed(run: Callable[[int], None], steps: int) -> float:
    """Seconds that `steps` steps take."""
    began = time.perf_counter()
    run(steps)
    return time.perf_counter() - began


def make_step(
    args: argparse.Namespace, hardware: Hardware, channels_last: bool
) -> Callable[[int], None]:
    """A function that trains so many steps on one random batch, and waits for the last."""
    generator = torch.Generator().manual_seed(0)
    encoder = build_encoder(args.arch, 1, None, generator)
    model = hardware.place(Classifier(encoder, 5, generator))
    encoder.channels_last = channels_last
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    x = torch.randn(args.batch_size, 1, args.frame_size, generator=generator).to(hardware.device)
    y = torch.randint(5, (args.batch_size,), generator=generator).to(hardware.device)

    def run(steps: int) -> None:
        train_epoch(model, [Batch(x, y, len(y))] * steps, optimizer, F.cross_entropy, hardware)

    run(2)  # the first steps allocate memory and choose kernels
    return run


def describe_machine(device: torch.device) -> str:
    """The GPU's name, or the processor's kind, instruction set and threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    kind = torch.backends.cpu.get_cpu_capability()
    return f"{platform.machine()} {kind}, {torch.get_num_threads()} threads"
