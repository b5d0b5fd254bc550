"""Finished fine-tuning runs of a study, for the report."""

from pathlib import Path
from typing import NamedTuple

from study.description import Study
from study.plan import architecture, cell_job


class Finished(NamedTuple):
    """A fine-tuning run.

    Attributes:
        architecture: None where only the weights file of the scenario knows it.
        subset: share of the training recordings. job: its directory.
        pretraining: name of the run that its weights come from, whose directory has that name
            beside `job`; None for new weights and those of another file.
        epoch: of it; None for the one that it chose. patients: share that it trained on.
    """

    scenario: str
    architecture: str | None
    subset: float
    seed: int
    job: Path
    pretraining: str | None
    epoch: int | None
    patients: float


def finished_cells(study: Study) -> list[Finished]:
    """In the order of the study."""
    found = []
    for cell in study.cells:
        job, flags = cell_job(study, cell), study.scenarios[cell.scenario]
        if job.finished():
            run = flags.get("pretraining")
            patients = study.pretraining.get(run, {}).get("patients", 1.0)
            known = architecture(study, cell.scenario)
            found.append(Finished(cell.scenario, known, cell.subset, cell.seed, job.job_dir, run,
                                  flags.get("epoch"), patients))  # fmt: skip
    return found
