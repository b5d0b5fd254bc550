"""The commands of a study, in the order in which they are run."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from models import DEFAULT_ARCHITECTURE
from study.checks import Flags
from study.description import Cell, Study
from study.jobs import Job
from utils.cli import UserError
from utils.run import SCORES, WEIGHTS


def jobs(study: Study) -> list[Job]:
    """Cells in their order, each behind what it needs, then other pretraining runs.

    Raises:
        UserError: two would have one name, or need each other.
    """
    steps = [data_job(study.folder, name, step) for name, step in study.data.items()]
    runs = [pretraining_job(study.folder, name, run) for name, run in study.pretraining.items()]
    epochs = [
        epoch_job(study.folder, flags["pretraining"], flags["epoch"])
        for flags in study.scenarios.values()
        if "epoch" in flags
    ]
    epochs = list({job.name: job for job in epochs}.values())
    cells = [cell_job(study, cell) for cell in study.cells]
    found = [*steps, *runs, *epochs, *cells]
    names = [job.name for job in found]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{study.folder / name} would be two runs; rename one in the study")
    return _in_order([*cells, *runs], found)


def _in_order(targets: Iterable[Job], among: Sequence[Job]) -> list[Job]:
    """`targets`, each behind those `among` the jobs that it needs."""
    ordered: dict[str, Job] = {}

    def add(job: Job, *above: str) -> None:
        if job.name in above:
            circle = " needs ".join([*above[above.index(job.name) :], job.name])
            raise UserError(f"{job.folder}: {circle}; let one of them read something else")
        if job.name not in ordered:
            for other in needed(job, among):
                add(other, *above, job.name)
            ordered[job.name] = job

    for job in targets:
        add(job)
    return list(ordered.values())


def needed(job: Job, among: Iterable[Job]) -> list[Job]:
    """Those that make what it reads."""
    return [
        other
        for other in among
        if other is not job and other.kind != "finetuning" and job.needs(other)
    ]


def wanted(found: Sequence[Job]) -> list[Job]:
    """What is to be run: runs that are not finished, and data where such a run needs them."""
    left = [job for job in found if not job.finished()]
    return _in_order([job for job in left if job.kind != "data"], left)


def data_job(folder: Path, name: str, step: Flags) -> Job:
    """A step that makes data."""
    flags = dict(step)
    words, makes = flags.pop("command").split(), flags.pop("makes")
    paths = tuple(map(Path, [makes] if isinstance(makes, str) else makes))
    return Job(name, "data", tuple(words), flags, paths, folder)


def pretraining_job(folder: Path, name: str, run: Flags) -> Job:
    """A pretraining run."""
    flags = {"job-dir": str(folder / name), **run}
    share = flags.pop("patients", 1.0)
    makes, alike = (folder / name / WEIGHTS,), flags.get("arch", DEFAULT_ARCHITECTURE)
    return Job(name, "pretraining", ("pretraining.trainer",), flags, makes, folder, share, alike)


def epoch_job(folder: Path, run: str, epoch: int) -> Job:
    """The encoder of one epoch of a pretraining run."""
    name = f"{run}_epoch{epoch:02d}"
    out = folder / f"{name}.safetensors"
    checkpoint = folder / run / f"epoch_{epoch:02d}" / "model.safetensors"
    flags = {"checkpoint": str(checkpoint), "out": str(out), "overwrite": True}
    return Job(name, "data", ("pretraining.utils",), flags, (out,), folder)


def cell_name(study: Study, cell: Cell) -> str:
    """Of its job directory: `beat_10`, with another subset than most `beat_subset0.05_10`."""
    subset = "" if cell.subset == study.subset else f"_subset{cell.subset:g}"
    return f"{cell.scenario}{subset}_{cell.seed}"


def weights_file(study: Study, scenario: str) -> str | None:
    """That its runs begin with."""
    flags = study.scenarios[scenario]
    if "pretraining" not in flags:
        return flags.get("weights-file")
    if "epoch" in flags:
        return epoch_job(study.folder, flags["pretraining"], flags["epoch"]).flags["out"]
    return str(study.folder / flags["pretraining"] / WEIGHTS)


def architecture(study: Study, scenario: str) -> str | None:
    """Of its runs; None where only a weights file knows."""
    flags = study.scenarios[scenario]
    run = study.pretraining.get(flags.get("pretraining"), {})
    unknown = "weights-file" in flags or "weights-file" in run
    return flags.get("arch", run.get("arch", None if unknown else DEFAULT_ARCHITECTURE))


def cell_job(study: Study, cell: Cell) -> Job:
    """A fine-tuning run."""
    name, flags = cell_name(study, cell), dict(study.scenarios[cell.scenario])
    weights = weights_file(study, cell.scenario)
    for key in ("pretraining", "epoch"):
        flags.pop(key, None)
    flags = {"job-dir": str(study.folder / name), "seed": cell.seed, **flags}
    if weights:
        flags["weights-file"] = weights
    if cell.subset != 1:
        flags["subset"] = cell.subset
    else:
        flags.pop("subset", None)
    alike = f"{architecture(study, cell.scenario)} {cell.subset}"
    makes = (study.folder / name / SCORES,)
    return Job(name, "finetuning", ("finetuning.trainer",), flags, makes, study.folder, 1.0, alike)
