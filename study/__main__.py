"""Run a whole comparison, pretraining and fine-tuning, from one description; say how far it is.

    python -m study run studies/cpu.toml --time-limit 600
    python -m study status studies/cpu.toml

The same command continues where it stopped. Exit codes: 0 all runs are finished, 2 some failed,
75 something is left (time limit), 130 and 143 stopped by Ctrl-C or SIGTERM.
"""

from study.flags import add_flags
from utils import cli


def main() -> None:
    parser = cli.Parser(prog="python -m study", description=__doc__.split("\n")[0])
    flag = parser.add_argument
    flag("what", choices=("run", "status"))
    flag("study", type=cli.file, help="description, such as studies/demo.toml")
    add_flags(parser)
    flag("--jobs", type=cli.count, default=1, help="[run] at once, each with its share of threads")
    flag("--time-limit", type=cli.positive, metavar="MINUTES", help="[run] stop within this time")
    flag("--dry-run", action="store_true", help="[run] print the commands of what is not finished")
    args = parser.parse_args()
    if args.what == "status":
        parser.refuse(["jobs", "time_limit", "dry_run"], "only for run")
    # Only now, so that --help and a mistyped flag are answered at once.
    from study import plan, running, status
    from study.description import load

    study = load(args.study, args.set, args.folder)
    jobs = plan.jobs(study)
    if args.what == "status":
        print(status.table(jobs))
    elif args.dry_run:
        print("\n".join(job.command() for job in plan.wanted(jobs)) or "all jobs are finished")
    else:
        running.run(study.folder, jobs, args.jobs, args.time_limit)


if __name__ == "__main__":
    cli.run(main)
