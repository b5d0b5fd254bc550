"""Kill both trainers again and again; they must end as if nothing had been.

python -m tests.soak.resume --kills 20
"""

import tempfile
from pathlib import Path

from finetuning import prepare
from recordings.synthetic import write_challenge17, write_icentia11k
from tests.helpers import command
from tests.interrupting import kill_and_continue, results, short_runs, time_whole
from utils import cli


def main() -> None:
    parser = cli.Parser(prog="python -m tests.soak.resume", description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=cli.count, default=20, help="of each trainer")
    parser.add_argument("--seed", type=cli.seed, default=0, help="of the moments")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_icentia11k(folder / "icentia11k", patients=6, segments=2, samples=6000, seed=0)
        write_challenge17(folder / "source", recordings=60, seed=0)
        flags = ["--source", folder / "source", "--labels", "zip", "--out", folder / "p"]
        assert command(prepare.main, *flags, "--pad", 512).code == 0
        for module, flags in short_runs(folder / "icentia11k", folder, steps=80).items():
            whole, killed = folder / f"{module}_whole", folder / f"{module}_killed"
            seconds = time_whole(module, flags, whole) / 4
            said = kill_and_continue(module, flags, killed, args.kills, seconds, args.seed)
            equal = results(killed) == results(whole)
            print(
                f"{module}: killed {args.kills} times, continued {said.count('continues after')}; "
                f"{len(results(whole))} files, {'all equal' if equal else 'NOT EQUAL'}"
            )
            assert equal


if __name__ == "__main__":
    cli.run(main)
