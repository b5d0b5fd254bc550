"""Ask fine-tuned networks about atrial fibrillation on a database of another device and lead.

    python -m finetuning.predict.external_validation \\
        --weights jobs/random_10/best_model.safetensors --records data/mitdb \\
        --out report/results/crosscheck/random_10.csv.gz

Each record is cut into windows of 30 s, as most recordings of the Challenge 2017 are. Of several
weights the probabilities are averaged; the class with the highest is the answer. The rules:

- Truth is the rhythm that the annotators of the database wrote down, each from its mark to the next
  (Moody & Mark 2001). A window counts as AF where all of it is fibrillation, and as not AF where
  none of it is; one that is mixed, or that begins before the first mark, counts for nothing. All
  are in the table.
- Atrial flutter is not AF: the Challenge's class A is fibrillation alone, flutter is one of its
  other rhythms (Clifford et al. 2017). How such windows are answered is printed for itself.
- The first lead is looked at: in MIT-BIH MLII, but V5 in records 102, 104 and 114. The Challenge's
  is a lead I of a device held in two hands.
- Signals are taken as they are. MIT-BIH's lie 0.1 to 1.1 mV below zero, which the device of the
  Challenge filters away; --band-pass does the same to each window (0.5 to 40 Hz).
- Records 201 and 202 of MIT-BIH are one subject. Paced ones (102, 104, 107, 217) are kept, though
  the Challenge has no class for them.
- Weights whose encoder was pretrained on the same database know these subjects and are refused.
"""

import argparse
from pathlib import Path

from utils import cli, names


def main() -> None:
    parser = cli.Parser(
        prog="python -m finetuning.predict.external_validation", description=__doc__.split("\n")[0]
    )
    flag = parser.add_argument
    flag(
        "--weights",
        type=cli.file,
        required=True,
        action="append",
        help="best_model.safetensors of finetuning.trainer; again for a mean of several",
    )
    flag("--records", type=cli.existing, required=True, help="folder of WFDB records")
    flag(
        "--source",
        choices=names.ANNOTATED,
        default="mitdb",
        help="wfdb for any other database with rhythm annotations (.atr)",
    )
    flag("--channel", type=cli.count_or_zero, default=0, help="lead to look at, counted from 0")
    flag(
        "--band-pass", action="store_true", help="keep 0.5 to 40 Hz, as the Challenge's device does"
    )
    flag("--out", type=_table, required=True, help="table to write, .csv or .csv.gz")
    cli.add_hardware_flags(parser)
    flag("--overwrite", action="store_true", help="replace a table that is there")
    args = parser.parse_args()
    # Only now, so that --help and a mistyped flag are answered at once.
    from finetuning.predict.crosschecking import crosscheck

    crosscheck(args)


def _table(text: str) -> Path:
    if not text.endswith((".csv", ".csv.gz")):
        raise argparse.ArgumentTypeError(f"{text} must end in .csv or .csv.gz")
    return Path(text)


if __name__ == "__main__":
    cli.run(main)
