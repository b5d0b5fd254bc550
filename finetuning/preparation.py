"""Recordings of any data set to its prepared sets and their manifest."""

import argparse
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from finetuning.datasets import challenge17, challenge20, ptbxl, table
from finetuning.datasets.listing import PARTS, Listing
from finetuning.predict.doubts import RANGE, implausible
from finetuning.prepared_set import UNIT, divide, manifest_path, report_absent, write_prepared
from recordings import Unusable
from recordings.formats import lead_order
from recordings.quality import Quality, assess_leads
from recordings.resampling import to_microvolt
from utils.cli import UserError
from utils.files import sha256, write_json
from utils.manifest import counted, report_flagged, summary

# Each has read_listing, and the mean and sd of its signals, one for each lead; None: to measure.
DATASETS = {reader.NAME: reader for reader in (challenge17, challenge20, ptbxl, table)}
Clipped = dict[str, tuple[int, str | None]]  # of a record: samples, and why it can be no ECG
SHOWN_CLASSES = 8  # more do not fit into a line


def prepare(args: argparse.Namespace, own: dict[str, Any]) -> None:
    """Read, resample, split and write as the flags of `finetuning.prepare` say.

    Args:
        own: what the reader of `args.dataset` takes.
    """
    reader = DATASETS[args.dataset]
    listing = reader.read_listing(**own)
    if listing.parts is not None and args.drawing:
        flag = args.drawing[0].replace("_", "-")
        raise UserError(f"--{flag} is to draw a split; {listing.labels} has one, leave it out")
    paths = output_paths(args.out, listing)
    for path in paths.values():
        if path.exists() and not args.overwrite:
            raise UserError(f"{path} exists; choose another --out or give --overwrite")
    listing, signals, clipped, flagged = read_all(listing, args.fs, args.resampling)
    splits = split(listing, args.test_size, args.seed)
    constants = {"mean_mv": reader.MEAN_MV, "sd_mv": reader.SD_MV}
    if reader.MEAN_MV is None:
        constants = measure([signals[i] for i in splits["train"]]) | {"measured_on": "train"}
    for name, chosen in splits.items():
        part = listing.keep(chosen)
        used = [signals[i] for i in chosen]
        write_prepared(paths[name], used, part.y, part.records, listing.classes)
    constants |= {"clipped_samples": count_clipped(clipped), **counted(flagged)}
    manifest = describe(args, listing, constants, splits, paths)
    write_json(paths["manifest"], manifest)
    if listing.left_out:
        print(f"{summary(listing.left_out)} (all: {paths['manifest']})", file=sys.stderr)
    report_clipped(clipped)
    report_flagged(flagged)
    for name, chosen in splits.items():
        report_absent(name, listing.y[chosen], listing.classes)
    print_table(manifest["class_counts"], {"all": len(listing.y)} | lengths(splits), paths)


def report_clipped(clipped: Clipped) -> None:
    """Say how many samples were clipped, in which record most, and why that may be."""
    if not clipped:
        return
    worst = max(clipped, key=lambda record: clipped[record][0])
    (most, why), total = clipped[worst], count_clipped(clipped)
    why = f" ({why})" if why else ""
    print(
        f"{total} samples beyond ±{RANGE:g} mV were clipped, {most} of them in {worst}{why}",
        file=sys.stderr,
    )


def count_clipped(clipped: Clipped) -> int:
    return sum(count for count, _ in clipped.values())


def describe(
    args: argparse.Namespace,
    listing: Listing,
    constants: dict[str, Any],
    splits: dict[str, np.ndarray],
    paths: dict[str, Path],
) -> dict[str, Any]:
    """The manifest of the files that have been written."""
    parts = {"all": listing} | {name: listing.keep(chosen) for name, chosen in splits.items()}
    drawn = listing.parts is None
    return {
        "dataset": args.dataset,
        "labels": listing.labels,
        "source_sha256": listing.checksums,
        "classes": list(listing.classes),
        "multi_label": listing.multi_label,
        "left_out": listing.left_out,
        "fs": args.fs,
        "resampling": args.resampling,
        "unit": UNIT,
        "pad": args.pad,
        **constants,
        "seed": args.seed if drawn else None,
        "test_size": args.test_size if drawn else None,
        "class_counts": {name: count_classes(part) for name, part in parts.items()},
        "files": {
            name: {"name": paths[name].name, "sha256": sha256(paths[name]), "records": records}
            for name, records in lengths(splits).items()
        },
        "versions": {name: version(name) for name in ("numpy", "scipy", "scikit-learn")},
        **number_patients(listing),
    }


def lengths(splits: dict[str, np.ndarray]) -> dict[str, int]:
    """Records of each part."""
    return {name: len(chosen) for name, chosen in splits.items()}


def output_paths(out: Path, listing: Listing) -> dict[str, Path]:
    """The files that are written, as "train", "test", … and "manifest"."""
    names = ("train", "test") if listing.parts is None else _present(listing.parts)
    paths = {name: out.with_name(f"{out.name}_{name}.npz") for name in names}
    return paths | {"manifest": manifest_path(out.with_name(f"{out.name}_train.npz"))}


def read_all(
    listing: Listing, fs: int, resampling: str
) -> tuple[Listing, list[np.ndarray], Clipped, dict[str, list[str]]]:
    """Read and resample every record.

    Returns the listing of the usable ones, with the others left out, their signals (int16
    (samples, leads), microvolt), what was clipped here, and the names of those of which a
    lead was recorded `constant` or `clipped`.

    Raises:
        UserError: no record is usable.
    """
    kept, signals, left_out, clipped = [], [], list(listing.left_out), {}
    flagged: dict[str, list[str]] = {kind: [] for kind in Quality._fields}
    count, leads = listing.leads and len(listing.leads), listing.leads
    for index, record in enumerate(tqdm(listing.records, "reading", leave=False, disable=None)):
        try:
            recording = listing.read(record)
            count, leads = count or recording.signal.shape[1], leads or recording.leads
            order = lead_order(recording, count, leads)
            ordered = recording._replace(signal=recording.signal[:, order])
        except Unusable as error:
            left_out.append({"record": str(record), "reason": str(error)})
            continue
        signal, out_of_range = to_microvolt(ordered, fs, resampling, listing.beyond)
        kept.append(index)
        signals.append(signal)
        if out_of_range:
            clipped[str(record)] = out_of_range, implausible(ordered.signal)
        if recording.uncalibrated:
            flagged.setdefault("uncalibrated", []).append(str(record))
        for kind, found in assess_leads(ordered.signal)._asdict().items():
            flagged[kind] += [str(record)] if found else []
    if not kept:
        raise UserError(f"no record is usable ({summary(left_out)})")
    return listing.keep(kept, left_out=left_out), signals, clipped, flagged


def split(listing: Listing, test_size: float, seed: int) -> dict[str, np.ndarray]:
    """Numbers of the records of each part, ascending: the set's own parts, or train and test.

    Raises:
        UserError: nothing is left to train on, or a class that has to be in a part is not.
    """
    lost = f" ({summary(listing.left_out)})" if listing.left_out else ""
    if listing.parts is None:
        parts, remedy = draw(listing, test_size, seed, lost), "try another --seed or --test-size"
    else:
        parts = {name: np.flatnonzero(listing.parts == name) for name in _present(listing.parts)}
        remedy = "see the split"
    if "train" not in parts:
        raise UserError(f"no usable record is to train on; {remedy}{lost}")
    missing = [
        name
        for name, present in zip(listing.classes, listing.y[parts["train"]].any(0), strict=True)
        if not present
    ]
    if missing and not listing.multi_label:
        raise UserError(f"no recording of class {missing[0]} to train on; {remedy}{lost}")
    return parts


def draw(listing: Listing, test_size: float, seed: int, lost: str) -> dict[str, np.ndarray]:
    """As `split`, at random; `lost` says in errors what was left out."""
    counts = count_classes(listing)
    every = listing.patients is None and not listing.multi_label
    rarest = min(counts, key=counts.get)
    problem = f"class {rarest} has {counts[rarest]} of {len(listing.y)} records, too few"
    if every and counts[rarest] < 2:
        raise UserError(f"{problem} for a train and a test set; add records of it{lost}")
    flag = f"--test-size {test_size:g}"
    try:
        parts = divide(listing.y, listing.multi_label, listing.patients, seed, test_size=test_size)
    except ValueError:  # fewer places in one of the sets than there are classes
        if not every:
            raise UserError(
                f"{flag} of {len(listing.y)} records leaves a set empty{lost}"
            ) from None
        parts = ()
    if every and not (parts and all(listing.y[part].any(0).all() for part in parts)):
        raise UserError(f"{problem} for {flag}: both sets need every class{lost}")
    return dict(zip(("train", "test"), parts, strict=True))


def measure(signals: list[np.ndarray]) -> dict[str, Any]:
    """Mean and sd in mV over all samples: a number for one lead, a list for several.

    Args:
        signals: int16 (samples, leads) in microvolt.

    Raises:
        UserError: a lead is flat.
    """
    samples = sum(map(len, signals))
    mean = sum(signal.sum(0, dtype=np.float64) for signal in signals) / samples
    square = sum(np.square(signal - mean).sum(0) for signal in signals) / samples
    values = {"mean_mv": mean / 1000, "sd_mv": np.sqrt(square) / 1000}
    rounded = {name: value.round(6).tolist() for name, value in values.items()}
    if 0 in rounded["sd_mv"]:
        lead = rounded["sd_mv"].index(0)
        raise UserError(f"lead {lead} is flat in every recording; leave it out of the files")
    return rounded if len(mean) > 1 else {name: only for name, (only,) in rounded.items()}


def number_patients(listing: Listing) -> dict[str, dict[str, int]]:
    """For the manifest, where patients are known: a number by record, for later splits."""
    if listing.patients is None:
        return {}
    numbers = np.unique(listing.patients, return_inverse=True)[1].tolist()
    return {"patients": dict(zip(listing.records.tolist(), numbers, strict=True))}


def count_classes(listing: Listing) -> dict[str, int]:
    """Records of each class."""
    return dict(zip(listing.classes, listing.y.sum(0, dtype=int).tolist(), strict=True))


def print_table(
    class_counts: dict[str, dict[str, int]], records: dict[str, int], paths: dict[str, Path]
) -> None:
    """Records per class, where these are few, and in all, by part, and the files."""
    classes = list(class_counts["all"])
    shown = classes if len(classes) <= SHOWN_CLASSES else []
    names = (*shown, "total")
    widths = [max(6, len(name)) for name in names]
    print("      ", *(f"{name:>{n}}" for name, n in zip(names, widths, strict=True)), " file")
    for part, counts in class_counts.items():
        numbers = (*(counts[name] for name in shown), records[part])
        cells = (f"{number:>{n}}" for number, n in zip(numbers, widths, strict=True))
        print(f"{part:6}", *cells, f" {paths['manifest' if part == 'all' else part]}")


def _present(parts: np.ndarray) -> list[str]:
    return [name for name in PARTS if name in parts]
