"""Convert weights of the earlier TensorFlow code to a weights file; TensorFlow is not needed.

    python -m pretraining.import_tensorflow --checkpoint PREFIX --out weights.safetensors

PREFIX is the path of a checkpoint without `.index` and `.data-00000-of-00001`.
"""

import hashlib
from pathlib import Path

from models import ENCODERS
from pretraining.icentia11k.reader import ICENTIA11K
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
from recordings.wfdb_files import ICENTIA_FS
from utils import cli
from utils.cli import UserError
from utils.model_card import Metadata
from utils.run import versions
from utils.weights import card_beside, check_free, save_weights, write_card

CHALLENGE17 = ("challenge17", 0.0075, 0.2373)  # with mean and sd in mV of Weimann & Conrad's code
RAW = (ICENTIA11K.name, 0.0, 1.0)  # the replication's spectrograms are of raw mV
AF_CLASSES = ("A", "N", "O", "~")  # of Challenge 2017, in the order of the logits


def find_task(network: Network, task: str | None, dataset: str) -> tuple[str, list[str]]:
    """Objective and classes of a network.

    Args:
        task: the objective if known; an encoder alone does not show it.

    Raises:
        UserError: the network has another task, or not the classes of the data set.
    """
    by_classes = {len(row.classes): name for name, row in TASKS.items()}
    shown = {
        ENCODER: task or "unknown",
        CPC_MODEL: "cpc",
        PRETRAINING: by_classes.get(network.classes, "unknown"),
        FINE_TUNED: "classification",
    }[network.kind]
    if task not in (None, shown):
        raise UserError(f"--task {task}: this is a {network.kind} of task {shown}")
    if shown in TASKS:
        return shown, list(TASKS[shown].classes)
    if network.kind == FINE_TUNED and dataset == CHALLENGE17[0]:
        if network.classes != len(AF_CLASSES):
            raise UserError(f"{network.classes} classes are not those of {dataset}; name --dataset")
        return shown, list(AF_CLASSES)
    return shown, [str(number) for number in range(network.classes)]


def main() -> None:
    parser = cli.Parser(
        prog="python -m pretraining.import_tensorflow", description=__doc__.split("\n")[0]
    )
    flag = parser.add_argument
    flag("--checkpoint", type=Path, required=True, help="without .index and .data-…")
    flag("--out", type=Path, required=True, help="weights file")
    flag("--overwrite", action="store_true", help="replace --out")
    flag("--task", choices=TASKS, help="objective of an encoder that comes without its head")
    flag("--dataset", help="training data; by default icentia11k, if fine-tuned challenge17")
    flag("--mean", type=cli.number, help="of that data set, millivolt")
    flag("--sd", type=cli.positive, help="of that data set, millivolt")
    length = "samples of one input; by default 2048, of 2-D networks 4096, if fine-tuned 16384"
    flag("--frame-size", type=cli.count, help=length)
    args = parser.parse_args()
    check_free(args.out, args.overwrite)
    variables, files = read_checkpoint(args.checkpoint)
    network = recognise(variables, args.checkpoint)
    known = ENCODERS[network.architecture]
    if network.kind == FINE_TUNED:
        (name, mean, sd), frame_size = CHALLENGE17, 16384
    elif known.spectral:
        (name, mean, sd), frame_size = RAW, 4096
    else:
        (name, mean, sd), frame_size = ICENTIA11K[:3], 2048
    dataset = args.dataset or name
    if dataset != name and None in (args.mean, args.sd):
        raise UserError(f"--dataset {dataset}: its --mean and --sd in mV are needed, too")
    task, classes = find_task(network, args.task, dataset)
    metadata = Metadata(
        architecture=network.architecture,
        stages=None if network.stages == len(known.blocks) else network.stages,
        in_channels=network.state["encoder.conv1.weight"].shape[1],
        fs=ICENTIA_FS,
        unit="mV",
        mean=mean if args.mean is None else args.mean,
        sd=args.sd or sd,
        frame_size=args.frame_size or frame_size,
        task=task,
        classes=classes,
        dataset=dataset,
        # As `cat PREFIX.index PREFIX.data-* | sha256sum`.
        manifest_sha256=hashlib.sha256(b"".join(map(Path.read_bytes, files))).hexdigest(),
        seed=None,
        versions=versions(),
        spectrogram=network.encoder.spectrogram_settings,
    )
    save_weights(args.out, network.state, metadata)
    write_card(card_beside(args.out), args.out)
    print(
        f"{network.kind}: {network.architecture}, {network.stages} of {len(known.blocks)} stages, "
        f"{sum(value.numel() for value in network.state.values()):,} parameters\n"
        f"{args.out}: task {task}, {network.classes or 'no'} classes"
    )


if __name__ == "__main__":
    cli.run(main)
