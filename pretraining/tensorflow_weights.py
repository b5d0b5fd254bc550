"""From a TensorFlow checkpoint to a network of this project, its contract and its weights file."""

import argparse
import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from pretraining.cpc import CPC
from pretraining.icentia11k import FS, ICENTIA11K, Constants
from pretraining.tasks import TASKS
from pretraining.tensorflow_checkpoint import read_checkpoint
from pretraining.tensorflow_names import IN_CLASSIFIER, Variable, translate
from utils import encoders, runlog
from utils.checkpoint import load_strictly, save_weights
from utils.cli import UserError
from utils.contract import Contract
from utils.residual import FILTERS

CHALLENGE17 = Constants("challenge17", 0.0075, 0.2373, {})  # Weimann & Conrad's code
AF_CLASSES = list("ANO~")
DATASETS = {constants.name: constants for constants in (ICENTIA11K, CHALLENGE17)}
ENCODER, CPC_MODEL = "encoder", "CPC model"
PRETRAINING, FINE_TUNED = "pretraining classifier", "fine-tuned classifier"


BLOCK = re.compile(r"encoder\.stages\.(\d+)\.(\d+)\.")


class Network(NamedTuple):
    """What a checkpoint holds; `classes` is 0 where there is no dense layer."""

    kind: str
    architecture: str
    stages: int
    in_channels: int
    classes: int
    model: nn.Module  # has an `encoder`


def import_weights(args: argparse.Namespace) -> None:
    """Do what the flags of `pretraining.import_tensorflow` say."""
    checkpoint = read_checkpoint(args.checkpoint)
    network = rebuild(checkpoint.variables, args.checkpoint)
    contract = describe(network, checkpoint.files, args)
    save_weights(args.out, network.model.state_dict(), contract)
    whole = len(encoders.ENCODERS[network.architecture].blocks)
    print(
        f"{network.kind}: {network.architecture} with {network.stages} of {whole} stages, "
        f"{encoders.count_parameters(network.model):,} parameters; "
        f"task {contract.task}, {network.classes or 'no'} classes; written: {args.out}"
    )


def rebuild(variables: Mapping[str, np.ndarray], path: Path) -> Network:
    """The network that has these variables, with their values.

    Raises:
        UserError: no network known here has all of them and no others; `path` is named.
    """
    tensors = translate(variables)
    architecture, stages, encoder = _encoder(tensors, path)
    head = tensors.get("head.weight")
    if head and head.value.shape[1:] != (encoder.out_features,):
        raise UserError(f"{path}: {head.name} does not fit features of {encoder.out_features}")
    model, kind = nn.ModuleDict({"encoder": encoder}), ENCODER
    if "pool_token" in tensors:
        model, kind = CPC(encoder, 1, torch.Generator()), CPC_MODEL
    elif head:
        model = encoders.Classifier(encoder, len(head.value), torch.Generator())
        pretraining = any(name.startswith(IN_CLASSIFIER) for name in variables)
        kind = PRETRAINING if pretraining else FINE_TUNED
    strange = [variable.name for name, variable in tensors.items() if name not in model.state_dict()]
    if strange:
        raise UserError(
            f"{path} holds variables of no network known here: {len(strange)}, first {strange[0]}"
        )
    values = {name: torch.from_numpy(variable.value) for name, variable in tensors.items()}
    load_strictly(model, values, path)
    classes = len(head.value) if head else 0
    in_channels = encoder.conv1.weight.shape[1]
    return Network(kind, architecture, stages, in_channels, classes, model.eval())


def _encoder(tensors: Mapping[str, Variable], path: Path) -> tuple[str, int, nn.Module]:
    """Architecture, stages and a new encoder: of those with as many blocks in each stage, the one
    that has most of the tensors."""
    places = {found.groups() for found in map(BLOCK.match, tensors) if found}
    blocks = Counter(int(stage) for stage, _ in places)
    kernel = tensors["encoder.conv1.weight"].value if "encoder.conv1.weight" in tensors else None
    if not blocks or kernel is None or kernel.ndim < 3 or len(kernel) != FILTERS[0]:
        first = next((variable.name for variable in tensors.values()), "none")
        raise UserError(f"{path} holds no network known here; its first variable: {first}")
    fitting = {
        name: encoders.build_encoder(name, kernel.shape[1], len(blocks), torch.Generator())
        for name, known in encoders.ENCODERS.items()
        if known.spectral == (kernel.ndim == 4)
        and dict(enumerate(known.blocks[: len(blocks)])) == blocks
    }
    if not fitting:
        raise UserError(f"{path}: no network known here has stages of {list(blocks.values())} blocks")
    shared = {
        name: sum(f"encoder.{tensor}" in tensors for tensor in encoder.state_dict())
        for name, encoder in fitting.items()
    }
    architecture = max(fitting, key=shared.get)
    return architecture, len(blocks), fitting[architecture]


def describe(network: Network, files: list[Path], args: argparse.Namespace) -> Contract:
    """What the weights say of themselves; the flags fill in what no checkpoint knows.

    Raises:
        UserError: flags that contradict the network, or are needed and not given.
    """
    whole = len(encoders.ENCODERS[network.architecture].blocks)
    spectrogram = encoders.spectrogram_settings(network.model.encoder)
    usual = 16384 if network.kind == FINE_TUNED else 4096 if spectrogram else 2048
    dataset = _dataset(network, args)
    task, classes = _task(network, args.task, dataset.name)
    return Contract(
        architecture=network.architecture,
        stages=None if network.stages == whole else network.stages,
        in_channels=network.in_channels,
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
        spectrogram=spectrogram,
    )


def _dataset(network: Network, args: argparse.Namespace) -> Constants:
    usual = CHALLENGE17 if network.kind == FINE_TUNED else ICENTIA11K
    if args.dataset in (None, usual.name):
    known = DATASETS.get(args.dataset or usual.name)
    ...


def _checksum(files: list[Path]) -> str:
    """SHA-256 of the files one behind the other, as `cat PREFIX.index PREFIX.data-* | sha256sum`."""
    checksum = hashlib.sha256()
    for path in files:
        checksum.update(path.read_bytes())
    return checksum.hexdigest()
