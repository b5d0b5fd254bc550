"""Have the readers read thousands of damaged files; prints what became of them, by target.

python -m tests.soak.fuzz --files 5000
"""

import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.fuzz_targets import TARGETS
from tests.fuzzing import READ, REFUSAL, attack
from utils import cli


def main() -> None:
    parser = cli.Parser(prog="python -m tests.soak.fuzz", description=__doc__.split("\n")[0])
    flag = parser.add_argument
    flag("--files", type=cli.count, default=5000, help="of each target")
    flag("--target", action="append", help="those whose names begin so; by default all")
    flag("--seed", type=cli.seed, default=0, help="of the first file; each next one has the next")
    flag("--verbose", action="store_true", help="print what went wrong in full")
    args = parser.parse_args()
    chosen = [name for name in TARGETS if name.startswith(tuple(args.target or [""]))]
    if not chosen:
        parser.error(f"argument --target: known are {', '.join(TARGETS)}")
    failed = 0
    for name in chosen:
        with tempfile.TemporaryDirectory() as folder:
            seeds = range(args.seed, args.seed + args.files)
            outcomes = list(attack(TARGETS[name], seeds, Path(folder) / "target"))
        counts = Counter(outcome.what for outcome in outcomes)
        failures = [outcome for outcome in outcomes if outcome.failed]
        failed += len(failures)
        print(f"{name}: {len(outcomes)} files, {counts[REFUSAL]} refused, {counts[READ]} read, "
              f"{len(failures)} failures")  # fmt: skip
        for outcome in failures:
            lines = outcome.what.strip().splitlines()
            print(f"  --seed {outcome.seed}: {outcome.what if args.verbose else lines[-1][:300]}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    cli.run(main)
