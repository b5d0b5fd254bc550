"""Resample labelled recordings, split them and write the parts as arrays.

    python -m finetuning.prepare --source training2017.zip --labels zip --out data/physionet

Writes data/physionet_train.npz, data/physionet_test.npz and data/physionet_manifest.json. The
flags of a data set are listed by --dataset NAME --help; see `finetuning.datasets`.
"""

import argparse
import re
import sys
from collections import defaultdict
from dataclasses import replace
from importlib.metadata import version
from itertools import compress
from pathlib import Path
from textwrap import shorten

import numpy as np
import pandas as pd
from tqdm import tqdm

from finetuning.datasets import DATASETS, PARTS, Listing
from finetuning.prepared_set import UNIT, divide, report_absent, write_prepared
from recordings import Unusable
from recordings.formats import lead_order
from recordings.quality import Quality, assess, implausible_amplitude
from recordings.resampling import METHODS, to_microvolt
from utils import cli
from utils.files import counted, report_flagged, sha256, summary, write_json

# Signals of doubtful quality, which are used and counted.
KINDS = (*Quality._fields, "partly-flat", "uncalibrated", "out-of-range", "implausible")


def parse_arguments() -> argparse.Namespace:
    """Values of the flags of the command and of the data set that `--dataset` names."""
    about = __doc__.split("\n")[0]
    parser = cli.Parser(prog="python -m finetuning.prepare", description=about, add_help=False)
    flag, about = parser.add_argument, "for the flags of each see --dataset NAME --help"
    default = "table" if any(w.startswith("--table") for w in sys.argv) else "challenge17"
    flag("--dataset", choices=tuple(DATASETS), default=default, help=about)
    dataset = parser.parse_known_args()[0].dataset
    parser.prog += f" --dataset {dataset}"
    flag("-h", "--help", action="help", help="show this message and exit")
    for name, options in DATASETS[dataset].FLAGS.items():
        flag(f"--{name.replace('_', '-')}", **options)
    flag("--fs", type=cli.count, default=250, help="sampling rate to write, whole Hz")
    flag("--resampling", choices=METHODS, default="polyphase", help="fft: as the replication did")
    flag("--pad", type=cli.count, default=16384, help="samples a record is padded to in training")
    flag("--test-size", type=cli.proper_share, help="if the data has no split; by default 0.2")
    flag("--seed", type=cli.seed, help="seed of this split, by default 0")
    flag("--subjects", type=cli.file, help="CSV file of record,subject: whom records are of")
    flag("--out", type=Path, default=f"data/{DATASETS[dataset].PREFIX}", help="start of file names")
    flag("--overwrite", action="store_true", help="replace files that are there")
    return parser.parse_with_preset("prepare")


def read_signals(listing: Listing, fs: int, method: str) -> tuple[Listing, list[np.ndarray], dict]:
    """The usable records, the signal of each, int16 (samples, leads) in microvolt at `fs` Hz, and
    what the manifest says of doubtful ones and those left out, which is also said on stderr. Raises
    `UserError` if more are left out than the data set tolerates."""
    kept, signals, left_out, filled, notes = [], [], [], {}, defaultdict(list)
    flagged = {kind: [] for kind in KINDS}
    leads, count = listing.leads, listing.leads and len(listing.leads)
    for index, record in enumerate(tqdm(listing.records.tolist(), leave=False, disable=None)):
        try:
            if not listing.y[index].any():
                raise Unusable("no label")
            recording = listing.read(record)
            count, leads = count or recording.count, leads or recording.leads
            order = lead_order(recording, count, leads)
        except Unusable as error:
            left_out.append({"record": record, "reason": str(error)})
            continue
        recording = recording._replace(signal=recording.signal[:, order])
        microvolt, outside = to_microvolt(recording, fs, method, listing.padtype)
        kept.append(index)
        signals.append(microvolt)
        flat, clipped = np.array([assess(lead) for lead in recording.signal.T]).T
        partly = flat.any() and not flat.all()
        odd = not flat.all() and bool(implausible_amplitude(recording.signal[:, ~flat]))
        doubts = (flat.all(), clipped.any(), partly, recording.uncalibrated, outside > 0, odd)
        for kind in compress(KINDS, doubts):
            flagged[kind].append(record)
        for note in recording.notes:
            notes[note].append(record)
        if recording.filled:
            filled[record] = recording.filled
    if not kept or len(left_out) > listing.tolerated * len(listing.records):
        problem = f"too few of {len(listing.records)} records are usable ({summary(left_out)})"
        raise cli.UserError(f"{problem}; mend them, or see --help")
    if left_out:
        print(summary(left_out), file=sys.stderr)
    report_flagged(flagged, notes, filled)
    if len(flagged["implausible"]) > len(kept) / 2:
        raise cli.UserError("most amplitudes are none of an ECG; check the unit and the gain")
    stated = {"left_out": left_out, "interpolated": filled, "notes": notes, **counted(flagged)}
    return listing.keep(kept), signals, stated


def split(listing: Listing, test_size: float, seed: int) -> dict[str, np.ndarray]:
    """Ascending indices of the records of each part that the data set has, or of train and test.
    Raises `UserError` if nothing is to train on, or a class of a single-label set is not."""
    y, parts = listing.y, listing.parts
    try:
        if parts is None:
            parts = np.full(len(y), "train")
            _, test = divide(y, listing.multi_label, listing.patients, seed, test_size=test_size)
            parts[test] = "test"
        present = y[parts == "train"].any(0)
        if not (present.any() if listing.multi_label else present.all()):
            raise ValueError(f"train has no record of class {listing.classes[present.argmin()]}")
    except ValueError as error:
        advice = f"choose another --test-size, --seed or split of {listing.class_counts}"
        raise cli.UserError(f"{error}; {advice}") from None
    return {name: np.flatnonzero(parts == name) for name in PARTS if name in parts}


def read_subjects(path: Path, listing: Listing) -> np.ndarray:
    """(records,) patients by a file of lines `record,subject`: a record's name, or its last part
    without ending. Records that it does not name stay with whom the data set says, or alone."""
    text = path.read_text("utf-8-sig")
    subjects = dict(re.findall(r'^[ "]*(.+?)[ "]*[,;\t][ "]*(.+?)[ "]*$', text, re.MULTILINE))
    names = [n if n in subjects else Path(n).stem for n in listing.records.tolist()]
    if not subjects.keys() & names:
        raise cli.UserError(f"{path} has no line record,subject such as {names[0]},7")
    others = listing.records if listing.patients is None else listing.patients
    pairs = zip(names, others.tolist(), strict=True)
    return np.array([subjects.get(name, f"not named: {other}") for name, other in pairs])


def measure(signals: list[np.ndarray]) -> list[float] | list[list[float]]:
    """Mean and sd in mV of int16 (samples, leads) in microvolt: of several leads as lists. Warns
    where offsets of recordings, not their waves, make up most of a deviation."""
    samples = sum(map(len, signals))
    mean = sum(signal.sum(0, dtype=np.float64) for signal in signals) / samples
    square = sum(np.square(signal - mean).sum(0) for signal in signals) / samples
    within = sum(signal.var(0) * len(signal) for signal in signals) / samples
    if not square.all():
        raise cli.UserError(f"lead {square.argmin()} is flat in every recording; leave it out")
    if (square > 4 * within).any():
        advice = "consider finetuning.trainer --standardise recording"
        print(f"offsets of recordings differ by more than their waves; {advice}", file=sys.stderr)
    return [(v / 1000).round(6).squeeze().tolist() for v in (mean, np.sqrt(square))]


def main() -> None:
    """Read, resample, split and write the records of a data set, and report on them."""
    args = parse_arguments()
    dataset = DATASETS[args.dataset]
    listing = dataset.read_listing(**{name: getattr(args, name) for name in dataset.FLAGS})
    if args.subjects:
        listing = replace(listing, patients=read_subjects(args.subjects, listing))
    if listing.patients is not None:
        patients = len(set(listing.patients))
        print(f"{len(listing.records)} records of {patients} patients, whom no split separates")
    if listing.parts is None:
        args.test_size, args.seed = args.test_size or 0.2, args.seed or 0
    elif (args.test_size, args.seed) != (None, None):
        raise cli.UserError("--test-size and --seed draw a split, but the data comes with one")
    elif listing.patients is not None:
        parts = pd.Series(listing.parts).groupby(listing.patients).nunique()
        if parts.max() > 1:
            raise cli.UserError(f"patient {parts.idxmax()} is in several splits; see --subjects")
    paths = {name: Path(f"{args.out}_{name}.npz") for name in PARTS}
    paths["manifest"] = Path(f"{args.out}_manifest.json")
    existing = [path for path in paths.values() if path.exists()]
    if existing and not args.overwrite:
        raise cli.UserError(f"{existing[0]} exists; choose another --out or give --overwrite")
    listing, signals, stated = read_signals(listing, args.fs, args.resampling)
    parts, files = split(listing, args.test_size, args.seed), {}
    known = dataset.MEAN_MV and (dataset.MEAN_MV, dataset.SD_MV)
    mean, sd = known or measure([signals[i] for i in parts["train"]])
    for name, chosen in parts.items():
        part, path = listing.keep(chosen), paths[name]
        write_prepared(path, [signals[i] for i in chosen], part.y, part.records, part.classes)
        report_absent(name, part.y, part.classes)
        files[name] = {"name": path.name, "sha256": sha256(path), "records": len(chosen)}
        files[name]["class_counts"] = part.class_counts
        counts = ", ".join(f"{label} {count}" for label, count in part.class_counts.items())
        print(f"{name}: {len(chosen)} recordings ({shorten(counts, 80)}) in {path}")
    manifest = {
        "dataset": args.dataset, "labels": listing.labels, "source_sha256": listing.checksums,
        "classes": list(listing.classes), "multi_label": listing.multi_label, "fs": args.fs,
        "resampling": args.resampling, "padtype": listing.padtype, "unit": UNIT, "pad": args.pad,
        "mean_mv": mean, "sd_mv": sd, **stated, "seed": args.seed, "test_size": args.test_size,
        "files": files,
        "versions": {name: version(name) for name in ("numpy", "scipy", "scikit-learn")},
    }  # fmt: skip
    if listing.patients is not None:  # numbered, for later splits
        numbers = np.unique(listing.patients, return_inverse=True)[1].tolist()
        manifest["patients"] = dict(zip(listing.records.tolist(), numbers, strict=True))
    write_json(paths["manifest"], manifest)


if __name__ == "__main__":
    cli.run(main)
