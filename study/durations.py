"""How long the jobs of a study will take, after those that are finished."""

from collections import defaultdict
from collections.abc import Sequence

from study.jobs import Job


class Durations:
    """What finished jobs took, and what the others will take."""

    def __init__(self, jobs: Sequence[Job]):
        self.found: dict[tuple, list[float]] = defaultdict(list)
        for job in jobs:
            if job.finished():
                self.add(job)

    def add(self, job: Job) -> None:
        if seconds := job.seconds():
            for group in groups(job):
                self.found[group].append(seconds)

    def expected(self, job: Job) -> float | None:
        """Seconds, after those of the jobs most like it; None where there is none."""
        for group in groups(job):
            if group in self.found:
                return sum(self.found[group]) / len(self.found[group])
        return 0.0 if job.kind == "data" else None  # they are short

    def words(self, ahead: Sequence[Job], spent: dict[str, float], at_once: int) -> str:
        """`about 3 h 20 min left`."""
        expected = [(self.expected(job), spent.get(job.name, 0)) for job in ahead]
        if not ahead or None in [seconds for seconds, _ in expected]:
            return f"{len(ahead)} left"
        minutes = sum(max(e - s, 0) for e, s in expected) / at_once / 60
        return f"{len(ahead)} left, about {minutes // 60:.0f} h {minutes % 60:.0f} min"


def groups(job: Job) -> list[tuple]:
    """From those most like it to the others of its kind."""
    return [(job.kind, job.alike), (job.kind,)]
