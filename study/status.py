"""How far the runs of a study are, as a table."""

from collections.abc import Sequence

from study.jobs import STOPPED, Job

HEADER = ("run", "state", "seconds", "macro F1")


def table(jobs: Sequence[Job]) -> str:
    """A line for each run, and for each step that makes data."""
    rows = [HEADER] + [
        (job.name, state(job), f"{job.seconds():.0f}" if job.seconds() else "", score(job))
        for job in jobs
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    ends = (str.ljust, str.ljust, str.rjust, str.ljust)
    lines = (
        "  ".join(end(text, width) for end, text, width in zip(ends, row, widths, strict=True))
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def state(job: Job) -> str:
    """`finished`, `failed`, `epoch 3 of 20`, `begun`, `not begun`, or `of another command`."""
    if job.finished():
        return "finished"
    code = job.last_words()[1]
    if code not in (None, 0, *STOPPED):
        return "failed"
    if job.complete():
        return "of another command"
    done, total = job.epochs()
    if done:
        return f"epoch {done} of {total}" if total else f"epoch {done}"
    return "begun" if job.log.exists() else "not begun"


def score(job: Job) -> str:
    """`test 0.731`; empty where there is none."""
    found = job.score() if job.finished() else None
    return f"{found[0]} {found[1]:.3f}" if found else ""
