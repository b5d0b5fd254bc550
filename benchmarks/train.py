"""Speed of the training step: what the trainers do, against plain fp32 Conv1d.

python -m benchmarks.train --out benchmarks/train.json
"""

import platform
import statistics
import time
from pathlib import Path

from utils import cli, names


def main() -> None:
    parser = cli.Parser(prog="python -m benchmarks.train", description=__doc__.split("\n")[0])
    flag = parser.add_argument
    flag("--arch", choices=names.ARCHITECTURES, default="resnet18", help="encoder")
    flag("--frame-size", type=cli.count, default=2048, help="samples")
    flag("--batch-size", type=cli.count, default=64, help="frames")
    flag("--steps", type=cli.count, default=3, help="in one repeat")
    flag("--repeats", type=cli.count, default=5, help="the median is shown")
    flag("--device", choices=names.DEVICES, default="auto", help="auto: CUDA where there is one")
    flag("--out", type=Path, help="JSON file for the figures")
    args = parser.parse_args()
    import torch

    from utils.engine import choose_hardware, native_bf16
    from utils.files import write_json

    hardware = choose_hardware(args.device, "fp32")
    # The rows take turns within a repeat, so that a drift of the machine's speed hits all alike.
    rows = {"plain fp32, Conv1d": step(args, hardware, channels_last=False)}
    if native_bf16(hardware.device):
        rows["bf16, channels-last"] = step(args, hardware._replace(bf16=True), channels_last=True)
    else:
        print("bf16, channels-last: not measured, this device has no native bf16 (avx512_bf16)")
    speeds = {name: [] for name in rows}
    for _ in range(args.repeats):
        for name, run in rows.items():
            speeds[name].append(args.steps * args.batch_size / timed(run, args.steps))
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    plain = medians["plain fp32, Conv1d"]
    print(f"{args.arch}, frame {args.frame_size}, batch {args.batch_size}, {hardware.device}, "
          f"{torch.get_num_threads()} threads")  # fmt: skip
    print(f"{'':22}{'frames/s':>10}{'ratio':>8}{'lowest':>10}{'highest':>10}")
    for name, median in medians.items():
        low, high = min(speeds[name]), max(speeds[name])
        print(f"{name:22}{median:10.1f}{median / plain:8.2f}{low:10.1f}{high:10.1f}")
    if args.out:
        write_json(args.out, {
            "machine": machine(torch), "torch": torch.__version__, "arch": args.arch,
            "frame_size": args.frame_size, "batch_size": args.batch_size,
            "frames_per_second": speeds, "median": medians,
        })  # fmt: skip


def step(args, hardware, channels_last: bool):
    """A function that trains on one batch, warmed up."""
    import torch

    from utils.encoders import Classifier, build_encoder
    from utils.engine import train_epoch

    generator = torch.Generator().manual_seed(0)
    encoder = build_encoder(args.arch, 1, None, generator)
    model = hardware.place(Classifier(encoder, 5, generator))
    encoder.channels_last = channels_last
    optimizer = torch.optim.Adam(model.parameters(), fused=channels_last)
    x = torch.randn(args.batch_size, 1, args.frame_size, generator=generator).to(hardware.device)
    y = torch.randint(5, (args.batch_size,), generator=generator).to(hardware.device)

    def run(steps: int) -> None:
        # Reads the loss at the end, which waits for the device.
        train_epoch(model, [(x, y)] * steps, optimizer, torch.nn.functional.cross_entropy, hardware)

    run(2)
    return run


def timed(run, steps: int) -> float:
    """Seconds that `steps` steps take."""
    began = time.perf_counter()
    run(steps)
    return time.perf_counter() - began


def machine(torch) -> str:
    """Processor or GPU in words."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


if __name__ == "__main__":
    cli.run(main)
