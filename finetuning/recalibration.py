"""A finished run, concluded once more: see `finetuning.calibrate`."""

import argparse
from pathlib import Path

from finetuning.conclusion import conclude
from finetuning.data import open_data
from finetuning.run import make_training
from finetuning.trainer import make_parser
from utils import run as runlog
from utils.cli import UserError
from utils.distributed import ALONE
from utils.engine import choose_hardware
from utils.files import read_json
from utils.manifest import digest
from utils.names import ARGUMENTS, BEST, SCORES
from utils.weights import build_classifier, read_weights


def calibrate(job_dir: Path) -> None:
    """Conclude a finished run once more, such as one from before there were temperatures.

    Raises:
        UserError: it is not finished, or its data have changed.
    """
    args, epoch = flags_of(job_dir)
    hardware = choose_hardware(args.device, args.precision)
    with runlog.claimed(args):
        if not runlog.finished(args, SCORES):
            raise UserError(f"{job_dir} is not finished; continue it with --resume of the trainer")
        _, contract = read_weights(job_dir / BEST)
        data = open_data(args, hardware.device)
        if digest(data.manifest) != contract.manifest_sha256:
            raise UserError(f"{args.train} is not what {job_dir / BEST} was trained on")
        model = build_classifier(contract)
        conclude(args, data, make_training(args, model, contract, hardware, ALONE), epoch)


def flags_of(job_dir: Path) -> tuple[argparse.Namespace, int]:
    """Flags of a finished run, those that its version did not know by their defaults; and the epoch
    that it chose.

    Raises:
        UserError: it is not finished, or its files are damaged.
    """
    if not (job_dir / SCORES).exists():
        raise UserError(f"{job_dir} holds no finished run of finetuning.trainer (no {SCORES})")
    try:
        saved = read_json(job_dir / ARGUMENTS)["arguments"] | {"job_dir": str(job_dir)}
        epoch = read_json(job_dir / SCORES)["epoch"]
    except (KeyError, TypeError):
        raise UserError(f"{job_dir} holds damaged files of a run; run it again") from None
    files = {name: saved[name] for name in ("job_dir", "train", "val", "test") if saved.get(name)}
    words = [f"--{name.replace('_', '-')}={path}" for name, path in files.items()]
    args = make_parser().parse_args(words)
    vars(args).update({name: value for name, value in saved.items() if name not in files})
    args.resume, args.overwrite = True, False
    return args, epoch
