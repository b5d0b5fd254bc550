"""Convert a TensorFlow checkpoint (Keras 2, object-based) to a weights file, without TensorFlow:
networks and CPC of Weimann & Conrad, and the 2-D network of the replication."""

import re
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from models import ENCODERS, Classifier, build_encoder, count_parameters
from models.resnet1d import Bottleneck
from pretraining.cpc import CPC
from pretraining.icentia11k.reader import ICENTIA11K
from pretraining.tasks import TASKS
from pretraining.tensorflow_checkpoint import read_checkpoint
from recordings.wfdb_files import ICENTIA_FS
from utils import cli
from utils.cli import UserError
from utils.model_card import DATA_SETS, Metadata
from utils.run import versions
from utils.weights import card_beside, check_free, load_strictly, save_weights, write_card

ENCODER, CPC_MODEL = "encoder", "CPC model"
PRETRAINING, FINE_TUNED = "pretraining classifier", "fine-tuned classifier"
# Name, mean and sd in mV, and samples of one input. The replication's spectrograms are of raw mV.
CHALLENGE17, RAW = ("challenge17", 0.0075, 0.2373, 16384), (ICENTIA11K.name, 0.0, 1.0, 4096)
OF_TRAINING = re.compile(r"(optimizer|keras_api|save_counter)/|.*/\.OPTIMIZER_SLOT/")
IN_CLASSIFIER = "layer_with_weights-0/layer_with_weights-0/"  # encoder of a pretraining classifier
RENAMES = (  # applied in this order
    (r"/\.ATTRIBUTES/VARIABLE_VALUE$", ""),
    (r"^(layer_with_weights-0/|signal_embedding/)?layer_with_weights-0/", "encoder/"),
    (r"^layer_with_weights-1/", "head/"),
    (r"^attn_pooling/pool_token_embedding$", "pool_token"),
    (r"^attn_pooling/transformer/enc_layers/", "layers/"),
    ("/mha/W_q/", "/query/"), ("/mha/W_k/", "/key/"), ("/mha/W_v/", "/value/"),
    ("/mha/W_o/", "/out/"),
    (r"/layernorm(\d)/", r"/norm\1/"),
    (r"/res_(\d+)_(\d+)/", lambda match: f"/stages/{int(match[1]) - 1}/{int(match[2]) - 1}/"),
    (r"/(conv|bn)_(\d)/", r"/\1\2/"),
    (r"/init_bn/", "/bn1/"),
    (r"/(proj|res)_conv/", "/shortcut/0/"),
    (r"/(proj|res)_bn/", "/shortcut/1/"),
    (r"/(kernel|gamma)$", "/weight"),
    (r"/beta$", "/bias"),
    (r"/moving_(mean|var)(iance)?$", r"/running_\1"),
    ("/", "."),
)  # fmt: skip
BLOCK = re.compile(r"encoder\.(blocks\.\d+|stages\.\d+\.\d+)\.")
AXES = {2: (1, 0), 3: (2, 1, 0), 4: (3, 2, 0, 1)}  # to PyTorch's order, by number of axes


def rename(variables: Mapping[str, np.ndarray], path: Path) -> dict[str, Tensor]:
    """Variables of a network, without those of its training, in PyTorch's names and layout; but
    1-D blocks are still numbered through all stages, as `encoder.blocks.N`."""
    state = {}
    for name, value in variables.items():
        if OF_TRAINING.match(name):
            continue
        for pattern, replacement in RENAMES:
            name = re.sub(pattern, replacement, name)
        if name in state:
            raise UserError(f"{path} holds two variables for {name}")
        value = value.transpose(AXES.get(value.ndim))
        state[name] = torch.tensor(np.asarray(value, np.float32))
        if not state[name].isfinite().all():
            raise UserError(f"{path} holds values that are not finite")
    return state


def recognise(variables: Mapping[str, np.ndarray], path: Path) -> tuple[str, str, int, nn.Module]:
    """Find the network that has exactly the variables of the checkpoint `path`, or raise
    `UserError`: its kind, of the four above, architecture, number of stages, and itself."""
    state = rename(variables, path)
    kernel = state.get("encoder.conv1.weight", torch.empty(0))
    bottleneck = any(name.endswith(".conv3.weight") for name in state)
    blocks = len({match[0] for match in map(BLOCK.match, state) if match})
    for architecture in ENCODERS:
        known = ENCODERS[architecture]
        totals = list(accumulate(known.blocks))  # of blocks, up to each stage
        same = (kernel.ndim == 4, bottleneck) == (known.spectral, known.block is Bottleneck)
        if kernel.ndim > 2 and same and blocks in totals:
            break
    else:
        first = min(state, default="none")
        raise UserError(f"{path} holds no network known here; first variable: {first}")
    stages = totals.index(blocks) + 1
    places = [f"stages.{s}.{n}." for s, size in enumerate(known.blocks) for n in range(size)]
    for number, place in enumerate(places):
        state = {name.replace(f"blocks.{number}.", place): value for name, value in state.items()}
    with torch.device("meta"):  # drawing initial weights would take seconds
        encoder = build_encoder(architecture, kernel.shape[1], stages, None)
        if "pool_token" in state:
            kind, model = CPC_MODEL, CPC(encoder, 1, torch.Generator())
        elif "head.bias" in state:
            nested = any(name.startswith(IN_CLASSIFIER) for name in variables)
            kind = PRETRAINING if nested else FINE_TUNED
            model = Classifier(encoder, state["head.bias"].numel(), torch.Generator())
        else:
            kind, model = ENCODER, nn.ModuleDict({"encoder": encoder})
    load_strictly(model, state, path, assign=True)
    return kind, architecture, stages, model


def find_task(kind: str, classes: int, task: str | None, dataset: str) -> tuple[str, list[str]]:
    """Objective and classes of a network; `task` is the objective of an encoder alone, if known."""
    by_classes = {len(row.classes): name for name, row in TASKS.items()}
    known = {CPC_MODEL: "cpc", FINE_TUNED: "classification", ENCODER: task or "unknown"}
    known = known.get(kind) or by_classes.get(classes, "unknown")
    if task not in (None, known):
        raise UserError(f"--task {task}: this is a {kind} of task {known}")
    names = TASKS[known].classes if known in TASKS else map(str, range(classes))
    if kind == FINE_TUNED and dataset == CHALLENGE17[0]:
        names = DATA_SETS[dataset].classes
        if classes != len(names):
            raise UserError(f"{classes} classes are not those of {dataset}; name --dataset")
    return known, list(names)


def main() -> None:
    parser = cli.Parser(prog="python -m pretraining.import_tensorflow", description=__doc__)
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
    variables, checksum = read_checkpoint(args.checkpoint)
    kind, architecture, stages, model = recognise(variables, args.checkpoint)
    known, encoder = ENCODERS[architecture], model.encoder
    classes = len(model.head.bias) if hasattr(model, "head") else 0
    defaults = RAW if known.spectral else (*ICENTIA11K[:3], 2048)
    name, mean, sd, frame_size = CHALLENGE17 if kind == FINE_TUNED else defaults
    dataset = args.dataset or name
    if dataset != name and None in (args.mean, args.sd):
        raise UserError(f"--dataset {dataset}: its --mean and --sd in mV are needed, too")
    task, names = find_task(kind, classes, args.task, dataset)
    metadata = Metadata(
        architecture, None if stages == len(known.blocks) else stages,
        in_channels=encoder.conv1.weight.shape[1], fs=ICENTIA_FS, unit="mV",
        mean=mean if args.mean is None else args.mean, sd=args.sd or sd,
        frame_size=args.frame_size or frame_size, task=task, classes=names, dataset=dataset,
        manifest_sha256=checksum, seed=None, versions=versions(),
        spectrogram=encoder.spectrogram_settings,
    )  # fmt: skip
    save_weights(args.out, model.state_dict(), metadata)
    write_card(card_beside(args.out), args.out)
    print(f"{kind}: {architecture}, stages {stages}, {count_parameters(model):,} parameters")
    print(f"{args.out}: task {task}, {classes or 'no'} classes")


if __name__ == "__main__":
    cli.run(main)
