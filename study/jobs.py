"""One command of a study: its words, what it leaves behind, and how far it is."""

import csv
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from study.checks import INPUTS, Flags, text
from study.fractions import patient_ids
from utils.files import read_json
from utils.run import ARGUMENTS, CHECKPOINT, SCORES

ENDED = re.compile(r"ended with exit code (-?\d+) after (\d+) s")
STOPPED = {130, 143, -2, -15}  # exit codes of a process that was asked to stop


@dataclass(frozen=True)
class Job:
    """A command that is run once.

    Attributes:
        kind: data, pretraining or finetuning. words: module, and arguments without a name.
        makes: what is there when it is done. folder: of the study.
        share: of the patients that it trains on. alike: what runs of about its length have alike.
    """

    name: str
    kind: str
    words: tuple[str, ...]
    flags: Flags
    makes: tuple[Path, ...]
    folder: Path
    share: float = 1.0
    alike: str = ""

    @property
    def job_dir(self) -> Path:
        return self.folder / self.name

    @property
    def log(self) -> Path:
        """What the command says."""
        return self.folder / f"{self.name}.log"

    @property
    def begun(self) -> Path:
        """There while the files of a `data` job may not be whole."""
        return self.folder / f".{self.name}.begun"

    def needs(self, other: "Job") -> bool:
        """Whether it reads what `other` makes."""
        made = [*other.makes, *([] if other.kind == "data" else [other.job_dir])]
        read = [Path(self.flags[name]) for name in INPUTS if name in self.flags]
        return any(a.is_relative_to(b) or b.is_relative_to(a) for a in read for b in made)

    def argv(self) -> list[str]:
        """The command behind `python -m`."""
        words = list(self.words)
        for name, value in self.flags.items():
            if isinstance(value, bool):
                words += [f"--{name}"] if value else [f"--no-{name}"] if name == "compile" else []
            else:
                words += [f"--{name}", text(value)]
        if self.share < 1:
            words += ["--patient-ids", self._patients()]
        return words if self.kind == "data" else [*words, "--resume"]

    def _patients(self) -> str:
        root = Path(self.flags["train"])
        if not root.exists():
            return f"({self.share:.4g} of those in {root})"
        return text(patient_ids(root, self.share, self.flags.get("seed", 0)))

    def command(self) -> str:
        """As a person would type it."""
        return shlex.join(["python", "-m", *self.argv()])

    def finished(self) -> bool:
        """Whether there is nothing to do, and the run that is there is that of this command.

        A run of another command is left to its trainer, which knows whether the flags differ.
        """
        return self.complete() and (self.kind == "data" or self._saved() == ["-m", *self.argv()])

    def complete(self) -> bool:
        """Whether all its files are there, whatever command they are of."""
        unfinished = self.begun if self.kind == "data" else self.job_dir / CHECKPOINT
        return not unfinished.exists() and all(path.exists() for path in self.makes)

    def _saved(self) -> list[str]:
        path = self.job_dir / ARGUMENTS
        if not path.exists():
            return []
        return shlex.split(read_json(path)["environment"].get("command", ""))[1:]

    def last_words(self) -> tuple[str, int | None]:
        """Last line that its latest process said, and how that ended, if it did."""
        lines = self.log.read_text("utf-8", "replace").split("\n") if self.log.exists() else []
        lines = [line.strip() for line in lines if line.strip()]
        ended = ENDED.fullmatch(lines[-1]) if lines else None
        said = lines[:-1] if ended else lines
        return (said[-1] if said else "it said nothing"), int(ended[1]) if ended else None

    def epochs(self) -> tuple[int, int | None]:
        """Epochs done, and how many there are to be at most, where that is known."""
        arguments = self.job_dir / ARGUMENTS
        total = read_json(arguments)["arguments"].get("epochs") if arguments.exists() else None
        return len(_rows(self.job_dir / "timing.csv")), total

    def seconds(self) -> float:
        """Spent on its epochs; of a `data` job, by the last process."""
        if self.kind == "data":
            ended = ENDED.findall(self.log.read_text()) if self.log.exists() else []
            return float(ended[-1][1]) if ended else 0.0
        return sum(float(row["seconds"]) for row in _rows(self.job_dir / "timing.csv"))

    def score(self) -> tuple[str, float] | None:
        """Macro F1 of a run that is done, and on what: `test`, `val` or `validation`."""
        path = self.job_dir / SCORES
        scores: dict[str, Any] = read_json(path) if path.exists() else {}
        for part, name in (("test", "macro_f1"), ("val", "macro_f1"), ("validation", "f1")):
            if part in scores:
                return part, scores[part][name]
        return None


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
