"""What a fine-tuning run trains, validates and tests on."""

import argparse
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch

from finetuning.batches import Recordings, pad_recordings
from finetuning.prepared_set import PreparedSet, divide, load_prepared, report_absent
from finetuning.targets import TARGETS, Targets
from utils.cli import UserError


class Data(NamedTuple):
    """Parts of the data by name (`train`, `val`, `test`; the latter two may be missing), and the
    manifest and kind of targets of the set that is trained on."""

    parts: dict[str, Recordings]
    manifest: dict
    targets: Targets


def open_data(args: argparse.Namespace, device: torch.device) -> Data:
    """Read the prepared sets; draw the validation set, then the subset of the rest.

    Raises:
        UserError: the sets do not fit together, or cannot be split.
    """
    sets = {
        name: load_prepared(path)
        for name, path in (("train", args.train), ("val", args.val), ("test", args.test))
        if path
    }
    for one, other in combinations(sets, 2):
        check_alike(f"--{one}", sets[one], f"--{other}", sets[other], args.channel)
    train_set = sets["train"]
    if args.balance != "none" and train_set.multi_label:
        raise UserError("--balance: recordings of several classes cannot be balanced; leave it out")
    chosen = {name: np.arange(len(prepared)) for name, prepared in sets.items()}
    if not args.val and args.val_size:
        sets["val"] = train_set
        chosen["train"], chosen["val"] = draw(
            train_set, chosen["train"], args.seed, "--val-size", test_size=args.val_size
        )
    if args.subset < 1:
        chosen["train"], _ = draw(
            train_set, chosen["train"], args.seed, "--subset", train_size=args.subset
        )
    parts = {
        name: pad_recordings(
            sets[name], chosen[name], args.channel, device, args.standardise == "recording"
        )
        for name in ("train", "val", "test")
        if name in sets
    }
    for name, part in parts.items():
        report_absent(name, part.y, part.classes)
    print(", ".join(f"{name}: {len(part)} recordings" for name, part in parts.items()))
    return Data(parts, train_set.manifest, TARGETS[train_set.multi_label])


def check_alike(
    one_flag: str, one: PreparedSet, other_flag: str, other: PreparedSet, channel: int | None
) -> None:
    """Raises `UserError` where two sets were prepared differently, or share recordings."""
    for key in ("classes", "fs", "pad", "mean_mv", "sd_mv", "labels"):
        ours, theirs = one.manifest.get(key), other.manifest.get(key)
        if ours != theirs:
            raise UserError(
                f"{key} is {theirs} in {other_flag}, {ours} in {one_flag}; prepare both alike"
            )
    if one.multi_label != other.multi_label:
        raise UserError(
            f"only one of {one_flag} and {other_flag} is multi-label; prepare both alike"
        )
    if channel is None and one.signal.shape[1] != other.signal.shape[1]:
        raise UserError(f"{other_flag} has other leads than {one_flag}; choose one by --channel")
    shared = np.intersect1d(one.record_ids, other.record_ids)
    if len(shared) and one.manifest["dataset"] == other.manifest["dataset"]:
        raise UserError(
            f"{other_flag} holds {len(shared)} recordings of {one_flag}, such as {shared[0]}; "
            "use the files of one split"
        )


def draw(
    prepared: PreparedSet, pool: np.ndarray, seed: int, flag: str, **sizes: float
) -> tuple[np.ndarray, np.ndarray]:
    """Split `pool` (numbers of recordings) in two, see `divide`; both in order.

    Raises:
        UserError: a class has too few recordings, or there are fewer places than classes.
    """
    patients = None if prepared.patients is None else prepared.patients[pool]
    try:
        parts = divide(prepared.y[pool], prepared.multi_label, patients, seed, **sizes)
    except ValueError as error:
        raise UserError(
            f"{flag} {next(iter(sizes.values())):g} of {len(pool)} recordings: {error}; "
            "choose another share"
        ) from None
    return pool[parts[0]], pool[parts[1]]
