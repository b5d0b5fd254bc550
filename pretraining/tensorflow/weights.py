"""From a TensorFlow checkpoint to a network of this project, its contract and its weights file."""

import argparse
import hashlib
from pathlib import Path

from models import ENCODERS, count_parameters, settings_of
from pretraining.icentia11k.reader import FS, ICENTIA11K, Constants
from pretraining.tasks import TASKS
from pretraining.tensorflow.checkpoint import read_checkpoint
from pretraining.tensorflow.network import (
    CPC_MODEL,
    ENCODER,
    FINE_TUNED,
    PRETRAINING,
    Network,
    recognise,
)
from utils import run as runlog
from utils.card import card_beside, write_card
from utils.cli import UserError
from utils.contract import Contract
from utils.weights import save_weights

CHALLENGE17 = Constants("challenge17", 0.0075, 0.2373, {})  # Weimann & Conrad's code
AF_CLASSES = ("A", "N", "O", "~")  # Challenge 2017's, in the order of the logits


def import_weights(args: argparse.Namespace) -> None:
    """Do what the flags of `pretraining.import_tensorflow` say."""
    variables, files = read_checkpoint(args.checkpoint)
    network = recognise(variables, args.checkpoint)
    contract = describe(network, files, args)
    save_weights(args.out, network.state, contract)
    write_card(card_beside(args.out), args.out)
    stages = f"{network.stages} of {len(ENCODERS[network.architecture].blocks)} stages"
    print(
        f"{network.kind}: {network.architecture}, {stages}, "
        f"{count_parameters(network.model):,} parameters\n"
        f"{args.out}: task {contract.task}, {network.classes or 'no'} classes"
    )


def describe(network: Network, files: list[Path], args: argparse.Namespace) -> Contract:
    """What the weights say of themselves; the flags fill in what no checkpoint knows.

    Raises:
        UserError: flags that contradict the network, or are needed and not given.
    """
    architecture = ENCODERS[network.architecture]
    dataset = _dataset(network, args)
    task, classes = _task(network, args.task, dataset.name)
    usual = 16384 if network.kind == FINE_TUNED else 4096 if architecture.spectral else 2048
    return Contract(
        architecture=network.architecture,
        stages=None if network.stages == len(architecture.blocks) else network.stages,
        in_channels=network.state["encoder.conv1.weight"].shape[1],
        fs=FS,
        unit="mV",
        mean=dataset.mean,
        sd=dataset.sd,
        frame_size=args.frame_size or usual,
        task=task,
        classes=classes,
        dataset=dataset.name,
        manifest_sha256=_checksum(files),
        seed=None,
        versions=runlog.versions(),
        spectrogram=settings_of(network.model.encoder),
    )


def _dataset(network: Network, args: argparse.Namespace) -> Constants:
    usual = CHALLENGE17 if network.kind == FINE_TUNED else ICENTIA11K
    name, mean, sd = args.dataset or usual.name, args.mean, args.sd
    if name != usual.name and None in (mean, sd):
        raise UserError(f"--dataset {name}: its --mean and --sd in mV are needed, too")
    if ENCODERS[network.architecture].spectral and usual is ICENTIA11K:
        usual = Constants(usual.name, 0.0, 1.0, {})  # the replication's spectrograms of raw mV
    return Constants(name, usual.mean if mean is None else mean, sd or usual.sd, {})


def _task(network: Network, asked: str | None, dataset: str) -> tuple[str, list[str]]:
    """Objective and classes; an encoder alone does not show what it was trained for."""
    by_classes = {len(task.classes): name for name, task in TASKS.items()}
    task = {
        ENCODER: asked or "unknown",
        CPC_MODEL: "cpc",
        PRETRAINING: by_classes.get(network.classes, "unknown"),
        FINE_TUNED: "classification",
    }[network.kind]
    if asked not in (None, task):
        raise UserError(f"--task {asked}: this is a {network.kind} of task {task}")
    if task in TASKS:
        return task, list(TASKS[task].classes)
    if network.kind == FINE_TUNED and dataset == CHALLENGE17.name:
        if network.classes != len(AF_CLASSES):
            raise UserError(f"{network.classes} classes are not those of {dataset}; name --dataset")
        return task, list(AF_CLASSES)
    return task, [str(number) for number in range(network.classes)]


def _checksum(files: list[Path]) -> str:
    """As `cat PREFIX.index PREFIX.data-* | sha256sum`."""
    checksum = hashlib.sha256()
    for path in files:
        checksum.update(path.read_bytes())
    return checksum.hexdigest()
