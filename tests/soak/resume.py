"""Kill both trainers again and again; they must end as if nothing had been.

python -m tests.soak.resume --kills 20
"""

import tempfile
import time
from pathlib import Path

from finetuning import prepare
from recordings.synthetic import write_challenge17, write_icentia11k
from tests.helpers import command
from tests.interrupting import kill_and_continue, results, start
from utils import cli

COMMON = ["--device", "cpu", "--precision", "fp32", "--checkpoint-every", 5]


def flags_of(folder: Path) -> dict[str, list[object]]:
    """Runs of some seconds on synthetic recordings in `folder`."""
    write_icentia11k(folder / "icentia11k", patients=6, segments=2, samples=6000, seed=0)
    write_challenge17(folder / "source", recordings=60, seed=0)
    made = command(
        prepare.main, "--source", folder / "source", "--labels", "zip", "--pad", 512,
        "--out", folder / "p",
    )  # fmt: skip
    assert made.code == 0, made
    return {
        "pretraining.trainer": [
            "--train", folder / "icentia11k", "--task", "beat", "--stages", 1, "--frame-size", 256,
            "--batch-size", 8, "--steps-per-epoch", 40, "--epochs", 8, "--samples-per-patient", 16,
            "--val-patients", 2, "--val-size", 32, *COMMON,
        ],
        "finetuning.trainer": [
            "--train", folder / "p_train.npz", "--test", folder / "p_test.npz", "--stages", 1,
            "--batch-size", 4, "--val-size", 0.25, "--epochs", 30, "--patience", 20, *COMMON,
        ],
    }  # fmt: skip


def main() -> None:
    parser = cli.Parser(prog="python -m tests.soak.resume", description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=cli.count, default=20, help="of each trainer")
    parser.add_argument("--seed", type=cli.seed, default=0, help="of the moments")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for module, flags in flags_of(folder).items():
            whole, killed = folder / f"{module}.whole", folder / f"{module}.killed"
            process = start(module, [*flags, "--job-dir", whole], folder / "log")
            while not (whole / "args.json").exists() and process.is_alive():
                time.sleep(0.01)
            began = time.monotonic()
            process.join()
            assert process.exitcode == 0, (folder / "log").read_text()
            seconds = (time.monotonic() - began) / 4
            said = kill_and_continue(module, flags, killed, args.kills, seconds, args.seed)
            equal = results(killed) == results(whole)
            print(
                f"{module}: killed {args.kills} times, continued {said.count('continues after')}; "
                f"{len(results(whole))} files, {'all equal' if equal else 'NOT EQUAL'}"
            )
            assert equal


if __name__ == "__main__":
    cli.run(main)
