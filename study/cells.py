"""Finished fine-tuning runs of a study, for the report."""

from pathlib import Path
from typing import NamedTuple

from study.description import Study
from study.plan import cell_job


class Finished(NamedTuple):
    """A fine-tuning run.

    Attributes:
        subset: share of the training recordings. job: its directory.
        run: of pretraining, that its weights come from, its directory; None for new weights and
            those of another file. epoch: of it; None for the one that it chose.
    """

    scenario: str
    subset: float
    seed: int
    job: Path
    run: Path | None
    epoch: int | None


def finished_cells(study: Study) -> list[Finished]:
    """In the order of the study."""
    found = []
    for cell in study.cells:
        job, flags = cell_job(study, cell), study.scenarios[cell.scenario]
        if job.finished():
            run = study.folder / flags["pretraining"] if "pretraining" in flags else None
            epoch = flags.get("epoch")
            found.append(Finished(cell.scenario, cell.subset, cell.seed, job.job_dir, run, epoch))
    return found
