"""Resample labelled recordings, split them and write the parts as arrays.

    python -m finetuning.prepare --source training2017.zip --labels zip --out data/physionet

Writes data/physionet_train.npz, data/physionet_test.npz and data/physionet_manifest.json. The
flags of a data set are listed by --dataset NAME --help; see `finetuning.datasets`.
"""

import argparse
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from tqdm import tqdm

from finetuning.datasets import DATASETS, PARTS, Listing
from finetuning.prepared_set import UNIT, divide, report_absent, write_prepared
from recordings import Unusable
from recordings.formats import lead_order
from recordings.quality import INT16_RANGE, Quality, assess_leads, implausible_amplitude
from recordings.resampling import METHODS, to_microvolt
from utils import cli
from utils.cli import UserError
from utils.files import counted, report_flagged, sha256, summary, write_json

COMMAND = "python -m finetuning.prepare"
TEST_SIZE, SEED = 0.2, 0  # of the split, if the data set comes without one


def parse_arguments() -> argparse.Namespace:
    """Flags of the command and of the data set that `--dataset` names."""
    first = cli.Parser(prog=COMMAND, add_help=False)
    about = "data set; for the flags of each see --dataset NAME --help"
    first.add_argument("--dataset", choices=tuple(DATASETS), default="challenge17", help=about)
    name = first.parse_known_args()[0].dataset
    description, prog = __doc__.split("\n")[0], f"{COMMAND} --dataset {name}"
    parser = cli.Parser(prog=prog, description=description, parents=[first])
    flag = parser.add_argument
    for flag_name, options in DATASETS[name].FLAGS.items():
        flag(f"--{flag_name.replace('_', '-')}", **options)
    flag("--fs", type=cli.count, default=250, help="sampling rate to write, whole Hz")
    about = "fft: over the whole recording at once, as the replication did"
    flag("--resampling", choices=METHODS, default="polyphase", help=about)
    flag("--pad", type=cli.count, default=16384, help="samples a record is padded to in training")
    about = f"share of the records to test on, by default {TEST_SIZE}, if the data has no split"
    flag("--test-size", type=cli.proper_share, help=about)
    flag("--seed", type=cli.seed, help=f"seed of this split, by default {SEED}")
    prefix = f"data/{DATASETS[name].PREFIX}"
    flag("--out", type=Path, default=prefix, help="beginning of the file names")
    flag("--overwrite", action="store_true", help="replace files that are there")
    cli.add_preset_flag(parser, "prepare")
    return parser.parse_with_preset("prepare")


def prepare(
    dataset: ModuleType,
    listing: Listing,
    out: Path,
    fs: int,
    resampling: str,
    pad: int,
    test_size: float | None = None,
    seed: int | None = None,
    overwrite: bool = False,
) -> None:
    """Read, resample, split and write the records of a data set, then report on them.

    Args:
        dataset: module of `finetuning.datasets`. listing: what its `read_listing` returned.
        out: beginning of the file names. fs: Hz to write. resampling: of `METHODS`.
        pad: samples that training pads a record to. test_size, seed: of a set without a split.

    Raises:
        UserError: a file exists, the split cannot be made, or no record is usable.
    """
    drawn = listing.parts is None
    if not drawn and (test_size, seed) != (None, None):
        raise UserError("--test-size and --seed draw a split, but the data has one; leave them out")
    test_size, seed = TEST_SIZE if test_size is None else test_size, seed or SEED
    parts = ("train", "test") if drawn else [part for part in PARTS if part in listing.parts]
    paths = {part: Path(f"{out}_{part}.npz") for part in parts}
    paths["manifest"] = Path(f"{out}_manifest.json")
    for path in paths.values():
        if path.exists() and not overwrite:
            raise UserError(f"{path} exists; choose another --out or give --overwrite")
    listing, signals, flagged, clipped = read_signals(listing, fs, resampling)
    splits = split(listing, test_size, seed)
    constants = {"mean_mv": dataset.MEAN_MV, "sd_mv": dataset.SD_MV}
    if dataset.MEAN_MV is None:
        constants = measure([signals[i] for i in splits["train"]]) | {"measured_on": "train"}
    files, class_counts = {}, {"all": listing.class_counts}
    for name, chosen in splits.items():
        part, path = listing.keep(chosen), paths[name]
        write_prepared(path, [signals[i] for i in chosen], part.y, part.records, part.classes)
        files[name] = {"name": path.name, "sha256": sha256(path), "records": len(chosen)}
        class_counts[name] = part.class_counts
    manifest = {
        "dataset": dataset.__name__.rpartition(".")[2],
        "labels": listing.labels,
        "source_sha256": listing.checksums,
        "classes": list(listing.classes),
        "multi_label": listing.multi_label,
        "left_out": listing.left_out,
        "fs": fs,
        "resampling": resampling,
        "unit": UNIT,
        "pad": pad,
        **constants,
        "clipped_samples": sum(count for count, _ in clipped),
        **counted(flagged),
        "seed": seed if drawn else None,
        "test_size": test_size if drawn else None,
        "class_counts": class_counts,
        "files": files,
        "versions": {name: version(name) for name in ("numpy", "scipy", "scikit-learn")},
    }
    if listing.patients is not None:  # numbered, for later splits
        numbers = np.unique(listing.patients, return_inverse=True)[1].tolist()
        manifest["patients"] = dict(zip(listing.records.tolist(), numbers, strict=True))
    write_json(paths["manifest"], manifest)
    if listing.left_out:
        print(f"{summary(listing.left_out)} (all: {paths['manifest']})", file=sys.stderr)
    if clipped:
        most, record = max(clipped, key=lambda item: item[0])
        total = f"{manifest['clipped_samples']} samples beyond ±{INT16_RANGE:g} mV were clipped"
        print(f"{total}, {most} of them in {record}", file=sys.stderr)
    report_flagged(flagged)
    for name, chosen in splits.items():
        report_absent(name, listing.y[chosen], listing.classes)
        counts = [f"{label} {count}" for label, count in class_counts[name].items()]
        shown = ", ".join(counts) if len(counts) <= 8 else f"{len(counts)} classes"
        print(f"{name}: {len(chosen)} recordings ({shown}) in {paths[name]}")


def read_signals(
    listing: Listing, fs: int, resampling: str
) -> tuple[Listing, list[np.ndarray], dict[str, list[str]], list[tuple[int, str]]]:
    """Read and resample every record.

    Returns:
        The listing of the usable records, with the others left out; their signals, int16 (samples,
        leads) in microvolt; the names of those with a `constant` or `clipped` lead; and of those
        with samples beyond int16, how many, and which record, with a probable cause.

    Raises:
        UserError: no record is usable.
    """
    kept, signals, clipped, left_out = [], [], [], list(listing.left_out)
    flagged: dict[str, list[str]] = {kind: [] for kind in Quality._fields}
    count, leads = listing.leads and len(listing.leads), listing.leads
    records = tqdm(listing.records.tolist(), "reading", leave=False, disable=None)
    for index, record in enumerate(records):
        try:
            recording = listing.read(record)
            count, leads = count or recording.signal.shape[1], leads or recording.leads
            order = lead_order(recording, count, leads)
            recording = recording._replace(signal=recording.signal[:, order])
        except Unusable as error:
            left_out.append({"record": record, "reason": str(error)})
            continue
        microvolt, out_of_range = to_microvolt(recording, fs, resampling, listing.beyond)
        kept.append(index)
        signals.append(microvolt)
        if out_of_range:
            cause = implausible_amplitude(recording.signal)
            clipped.append((out_of_range, f"{record} ({cause})" if cause else record))
        if recording.uncalibrated:
            flagged.setdefault("uncalibrated", []).append(record)
        for kind, applies in assess_leads(recording.signal)._asdict().items():
            flagged[kind] += [record] * applies
    if not kept:
        raise UserError(f"no record is usable ({summary(left_out)})")
    return listing.keep(kept, left_out=left_out), signals, flagged, clipped


def split(listing: Listing, test_size: float, seed: int) -> dict[str, np.ndarray]:
    """Indices of the records of each part, ascending: the parts of the data set, or train and test.

    Raises:
        UserError: nothing is left to train on, or a class of a single-label set is missing in the
            training part, or in the test part of a stratified split.
    """
    lost = f" ({summary(listing.left_out)})" if listing.left_out else ""
    if listing.parts is not None:
        parts = {name: np.flatnonzero(listing.parts == name) for name in PARTS}
        parts = {name: chosen for name, chosen in parts.items() if len(chosen)}
        complete, remedy = ["train"], "see the split"
    else:
        y, multi_label, patients = listing.y, listing.multi_label, listing.patients
        try:
            train, test = divide(y, multi_label, patients, seed, test_size=test_size)
        except ValueError as error:
            count, label = min((count, name) for name, count in listing.class_counts.items())
            rarest = f"class {label} has {count}{lost}"
            problem = f"--test-size {test_size:g} of {len(y)} records: {error}"
            raise UserError(f"{problem}; {rarest}") from None
        parts, remedy = {"train": train, "test": test}, "try another --seed or --test-size"
        complete = ["train", "test"] if patients is None else ["train"]
    if "train" not in parts:
        raise UserError(f"no usable record is to train on; {remedy}{lost}")
    for name in complete if not listing.multi_label else ():
        for label, count in listing.keep(parts[name]).class_counts.items():
            if not count:
                raise UserError(f"{name} has no record of class {label}; {remedy}{lost}")
    return parts


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


def main() -> None:
    args = parse_arguments()
    dataset = DATASETS[args.dataset]
    listing = dataset.read_listing(**{name: getattr(args, name) for name in dataset.FLAGS})
    prepare(
        dataset, listing, args.out, args.fs, args.resampling, args.pad, args.test_size, args.seed,
        args.overwrite,
    )  # fmt: skip


if __name__ == "__main__":
    cli.run(main)
