"""Resample labelled recordings, split them and write the parts as arrays.

    python -m finetuning.prepare --source training2017.zip --labels zip --out data/physionet

Writes data/physionet_train.npz, data/physionet_test.npz and data/physionet_manifest.json. The
flags of a data set are listed by --dataset NAME --help; see `finetuning.datasets`.
"""

import argparse
import sys
from importlib.metadata import version
from pathlib import Path
from textwrap import shorten
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
from utils.files import counted, report_flagged, sha256, summary, write_json

COMMAND = "python -m finetuning.prepare"
TEST_SIZE, SEED = 0.2, 0  # of the split, if the data set comes without one


def parse_arguments() -> argparse.Namespace:
    """Flags of the command and of the data set that `--dataset` names."""
    first = cli.Parser(prog=COMMAND, add_help=False)
    about = "for the flags of each see --dataset NAME --help"
    first.add_argument("--dataset", choices=tuple(DATASETS), default="challenge17", help=about)
    name = first.parse_known_args()[0].dataset
    prog = f"{COMMAND} --dataset {name}"
    parser = cli.Parser(prog=prog, description=__doc__.split("\n")[0], parents=[first])
    flag = parser.add_argument
    for flag_name, options in DATASETS[name].FLAGS.items():
        flag(f"--{flag_name.replace('_', '-')}", **options)
    flag("--fs", type=cli.count, default=250, help="sampling rate to write, whole Hz")
    about = "fft: over the whole recording at once, as the replication did"
    flag("--resampling", choices=METHODS, default="polyphase", help=about)
    flag("--pad", type=cli.count, default=16384, help="samples a record is padded to in training")
    about = f"share to test on, by default {TEST_SIZE}, if the data has no split"
    flag("--test-size", type=cli.proper_share, help=about)
    flag("--seed", type=cli.seed, help=f"seed of this split, by default {SEED}")
    flag("--out", type=Path, default=f"data/{DATASETS[name].PREFIX}", help="start of file names")
    flag("--overwrite", action="store_true", help="replace files that are there")
    return parser.parse_with_preset("prepare")


def read_signals(
    listing: Listing, fs: int, resampling: str
) -> tuple[Listing, list[np.ndarray], dict[str, list[str]], dict[str, int]]:
    """Read and resample every record; raises `UserError` if none is usable.

    Returns:
        The listing of the usable records; their signals, int16 (samples, leads) in microvolt; the
        records that may be of poor `Quality`; and by record the number of samples beyond int16.
    """
    kept, signals, clipped, left_out = [], [], {}, list(listing.left_out)
    flagged: dict[str, list[str]] = {kind: [] for kind in Quality._fields}
    leads, count = listing.leads, listing.leads and len(listing.leads)
    for index, record in enumerate(tqdm(listing.records.tolist(), leave=False, disable=None)):
        try:
            recording = listing.read(record)
            count, leads = count or recording.count, leads or recording.leads
            order = lead_order(recording, count, leads)
        except Unusable as error:
            left_out.append({"record": record, "reason": str(error)})
            continue
        recording = recording._replace(signal=recording.signal[:, order])
        microvolt, out_of_range = to_microvolt(recording, fs, resampling, listing.beyond)
        kept.append(index)
        signals.append(microvolt)
        if out_of_range:
            clipped[record] = out_of_range
        if recording.uncalibrated:
            flagged.setdefault("uncalibrated", []).append(record)
        for kind, applies in assess_leads(recording.signal)._asdict().items():
            flagged[kind] += [record] * applies
    if not kept:
        raise cli.UserError(f"no record is usable ({summary(left_out)})")
    return listing.keep(kept, left_out=left_out), signals, flagged, clipped


def split(listing: Listing, test_size: float, seed: int) -> dict[str, np.ndarray]:
    """Ascending indices of the records of each part that the data set has, or of train and test.

    Raises `ValueError` if nothing is to train on, or a class of a single-label set is not.
    """
    if listing.parts is None:
        labels = listing.y, listing.multi_label, listing.patients
        halves = divide(*labels, seed, test_size=test_size)
        parts = dict(zip(("train", "test"), halves, strict=True))
    else:
        parts = {name: np.flatnonzero(listing.parts == name) for name in PARTS}
    counts = listing.keep(parts["train"]).class_counts
    absent = [label for label, count in counts.items() if not count]
    if absent and (not listing.multi_label or len(absent) == len(counts)):
        raise ValueError(f"train has no record of class {absent[0]}")
    return {name: chosen for name, chosen in parts.items() if len(chosen)}


def measure(signals: list[np.ndarray]) -> dict[str, Any]:
    """Mean and sd in mV of int16 (samples, leads) in microvolt: of several leads as lists."""
    samples = sum(map(len, signals))
    mean = sum(signal.sum(0, dtype=np.float64) for signal in signals) / samples
    square = sum(np.square(signal - mean).sum(0) for signal in signals) / samples
    if not square.all():
        raise cli.UserError(f"lead {square.argmin()} is flat in every recording; leave it out")
    values = {"mean_mv": mean, "sd_mv": np.sqrt(square)}
    return {name: (value / 1000).round(6).squeeze().tolist() for name, value in values.items()}


def main() -> None:
    """Read, resample, split and write the records of a data set, then report on them."""
    args = parse_arguments()
    dataset = DATASETS[args.dataset]
    listing = dataset.read_listing(**{name: getattr(args, name) for name in dataset.FLAGS})
    test_size, seed = args.test_size or TEST_SIZE, args.seed or SEED
    if listing.parts is not None:
        if (args.test_size, args.seed) != (None, None):
            raise cli.UserError("--test-size and --seed draw a split, but the data has one")
        test_size = seed = None
    paths = {name: Path(f"{args.out}_{name}.npz") for name in PARTS}
    paths["manifest"] = Path(f"{args.out}_manifest.json")
    for path in paths.values():
        if path.exists() and not args.overwrite:
            raise cli.UserError(f"{path} exists; choose another --out or give --overwrite")
    listing, signals, flagged, clipped = read_signals(listing, args.fs, args.resampling)
    try:
        parts = split(listing, test_size, seed)
    except ValueError as error:
        lost = f", {summary(listing.left_out)}" if listing.left_out else ""
        problem = f"{error} (records: {listing.class_counts}{lost})"
        raise cli.UserError(f"{problem}; choose another --test-size, --seed or split") from None
    constants = {"mean_mv": dataset.MEAN_MV, "sd_mv": dataset.SD_MV}
    if dataset.MEAN_MV is None:
        constants = measure([signals[i] for i in parts["train"]]) | {"measured_on": "train"}
    files, class_counts = {}, {"all": listing.class_counts}
    for name, chosen in parts.items():
        part, path = listing.keep(chosen), paths[name]
        write_prepared(path, [signals[i] for i in chosen], part.y, part.records, part.classes)
        files[name] = {"name": path.name, "sha256": sha256(path), "records": len(chosen)}
        class_counts[name] = part.class_counts
    manifest = {
        "dataset": args.dataset, "labels": listing.labels, "source_sha256": listing.checksums,
        "classes": list(listing.classes), "multi_label": listing.multi_label,
        "left_out": listing.left_out, "fs": args.fs, "resampling": args.resampling, "unit": UNIT,
        "pad": args.pad, **constants, "clipped_samples": sum(clipped.values()), **counted(flagged),
        "seed": seed, "test_size": test_size, "class_counts": class_counts, "files": files,
        "versions": {name: version(name) for name in ("numpy", "scipy", "scikit-learn")},
    }  # fmt: skip
    if listing.patients is not None:  # numbered, for later splits
        numbers = np.unique(listing.patients, return_inverse=True)[1].tolist()
        manifest["patients"] = dict(zip(listing.records.tolist(), numbers, strict=True))
    write_json(paths["manifest"], manifest)
    if listing.left_out:
        print(f"{summary(listing.left_out)} (all: {paths['manifest']})", file=sys.stderr)
    if clipped:
        worst = max(clipped, key=clipped.get)
        cause = implausible_amplitude(listing.read(worst).signal) or "a plausible amplitude"
        total = f"{sum(clipped.values())} samples beyond ±{INT16_RANGE:g} mV were clipped"
        print(f"{total}, {clipped[worst]} of them in {worst} ({cause})", file=sys.stderr)
    report_flagged(flagged)
    for name, chosen in parts.items():
        report_absent(name, listing.y[chosen], listing.classes)
        counts = ", ".join(f"{label} {count}" for label, count in class_counts[name].items())
        print(f"{name}: {len(chosen)} recordings ({shorten(counts, 80)}) in {paths[name]}")


if __name__ == "__main__":
    cli.run(main)
