"""Recordings of a data set to the two prepared sets and their manifest."""

import argparse
import sys
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path

import numpy as np
from scipy.signal import resample_poly
from sklearn.model_selection import train_test_split
from tqdm import tqdm

from finetuning.challenge17 import (
    CLASSES,
    FS,
    MEAN_MV,
    NAME,
    SD_MV,
    Listing,
    UnusableRecord,
    read_listing,
    read_signal,
)
from finetuning.prepared import UNIT, manifest_path, write_prepared
from utils.cli import UserError
from utils.files import sha256, write_json
from utils.manifest import summary

SPLITS = ("train", "test")


def prepare(args: argparse.Namespace) -> None:
    """Read, resample, split and write as the flags of `finetuning.prepare` say."""
    paths = output_paths(args.out)
    for path in paths.values():
        if path.exists() and not args.overwrite:
            raise UserError(f"{path} exists; choose another --out or give --overwrite")
    listing = read_listing(args.source, args.labels)
    kept, signals, left_out, clipped = read_all(listing, args.fs)
    y = listing.y[kept]
    splits = dict(zip(SPLITS, split(y, args.test_size, args.seed), strict=True))
    one_hot = np.eye(len(CLASSES), dtype=np.uint8)[y]
    for name, chosen in splits.items():
        records = [listing.records[kept[i]] for i in chosen]
        write_prepared(paths[name], [signals[i] for i in chosen], one_hot[chosen], records, CLASSES)
    counts = {"all": count_classes(y)} | {name: count_classes(y[i]) for name, i in splits.items()}
    manifest = {
        "dataset": NAME,
        "labels": listing.labels,
        "source_sha256": listing.checksums,
        "classes": list(CLASSES),
        "left_out": left_out,
        "fs": args.fs,
        "unit": UNIT,
        "pad": args.pad,
        "mean_mv": MEAN_MV,
        "sd_mv": SD_MV,
        "clipped_samples": clipped,
        "seed": args.seed,
        "test_size": args.test_size,
        "class_counts": counts,
        "files": {
            name: {"name": paths[name].name, "sha256": sha256(paths[name]), "records": len(chosen)}
            for name, chosen in splits.items()
        },
        "versions": {name: version(name) for name in ("numpy", "scipy", "scikit-learn")},
    }
    write_json(paths["manifest"], manifest)
    if left_out:
        print(f"{summary(left_out)} (all: {paths['manifest']})", file=sys.stderr)
    print_table(counts, paths)


def output_paths(out: Path) -> dict[str, Path]:
    """The three files that are written, as "train", "test" and "manifest"."""
    paths = {name: out.with_name(f"{out.name}_{name}.npz") for name in SPLITS}
    return paths | {"manifest": manifest_path(paths["train"])}


def read_all(
    listing: Listing, fs: int
) -> tuple[list[int], list[np.ndarray], list[dict[str, str]], int]:
    """Read and resample every record.

    Returns the indices of the usable records, their signals (int16 (samples, 1), microvolt), what
    was left out with the reason, and the number of clipped samples.

    Raises:
        UserError: no record is usable.
    """
    kept, signals, left_out, clipped = [], [], [], 0
    for index, record in enumerate(tqdm(listing.records, "reading", leave=False, disable=None)):
        try:
            signal, out_of_range = to_microvolt(read_signal(listing.root, record), fs)
        except UnusableRecord as error:
            left_out.append({"record": record, "reason": str(error)})
            continue
        kept.append(index)
        signals.append(signal)
        clipped += out_of_range
    if not kept:
        raise UserError(f"{listing.root}: no record is usable ({summary(left_out)})")
    return kept, signals, left_out, clipped


def to_microvolt(signal: np.ndarray, fs: int) -> tuple[np.ndarray, int]:
    """Resample mV at 300 Hz, (samples, channels), to int16 microvolt at `fs` Hz.

    Also returns how many samples were clipped to the range of int16, ±32.767 mV.
    """
    ratio = Fraction(fs, FS)
    microvolt = np.rint(resample_poly(signal, ratio.numerator, ratio.denominator, axis=0) * 1000)
    limits = np.iinfo(np.int16)
    clipped = int(((microvolt < limits.min) | (microvolt > limits.max)).sum())
    return microvolt.clip(limits.min, limits.max).astype(np.int16), clipped


def split(y: np.ndarray, test_size: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the train and of the test set, ascending, classes in equal shares.

    Args:
        y: (records,) class indices.

    Raises:
        UserError: a class has fewer than two records or would be missing from one of the sets.
    """
    counts = count_classes(y)
    rarest = min(counts, key=counts.get)
    problem = f"class {rarest} has {counts[rarest]} of {len(y)} records, too few"
    if counts[rarest] < 2:
        raise UserError(f"{problem} for a train and a test set; add records of it")
    try:
        train, test = train_test_split(
            np.arange(len(y)), test_size=test_size, random_state=seed, stratify=y
        )
    except ValueError:  # fewer places in one of the sets than there are classes
        train = test = np.arange(0)
    if any(len(np.unique(y[part])) < len(CLASSES) for part in (train, test)):
        raise UserError(f"{problem} for --test-size {test_size:g}: both sets need every class")
    return np.sort(train), np.sort(test)


def count_classes(y: np.ndarray) -> dict[str, int]:
    """Records of each class; `y` is (records,) class indices."""
    return dict(zip(CLASSES, np.bincount(y, minlength=len(CLASSES)).tolist(), strict=True))


def print_table(class_counts: dict[str, dict[str, int]], paths: dict[str, Path]) -> None:
    """Records per class and split, and the files."""
    print("      ", *(f"{name:>6}" for name in (*CLASSES, "total")), " file")
    for name, counts in class_counts.items():
        numbers = (*counts.values(), sum(counts.values()))
        file = paths["manifest" if name == "all" else name]
        print(f"{name:6}", *(f"{number:>6}" for number in numbers), f" {file}")
