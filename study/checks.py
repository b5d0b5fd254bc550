"""What a description of a study may hold; everything else is refused, in one line."""

import re
from typing import Any

import finetuning.trainer
import pretraining.trainer
from utils.cli import Parser, UserError

Flags = dict[str, Any]  # flags without dashes, and their values

CELLS = {"scenarios": list, "seeds": list, "subsets": list}
NUMBER = int | float
WORDS = {str: "text", dict: "a table", list: "a list", int: "a whole number", NUMBER: "a number"}
OWN = {"job-dir", "resume", "overwrite"}  # flags that the study gives itself
# Flags that name what a command reads; and all that the study reads, too.
INPUTS = dict.fromkeys(
    ("train", "val", "test", "val-file", "weights-file", "checkpoint", "source", "from", "table"),
    str,
)
READ = INPUTS | {"arch": str, "seed": int, "subset": NUMBER}


def check_kinds(table: Flags, kinds: dict[str, type], where: str) -> None:
    """Refuse unknown keys, and values of another type."""
    for key, value in table.items():
        if key not in kinds:
            raise UserError(f"{where}unknown key {key!r}; known are {', '.join(kinds)}")
        if not isinstance(value, kinds[key]):
            raise UserError(f"{where}{key} must be {WORDS[kinds[key]]}, not {value!r}")


def check_read(table: Flags, kinds: dict[str, type], where: str) -> None:
    """Refuse values of another type; other keys are left to the command."""
    check_kinds({key: table[key] for key in kinds if key in table}, kinds, where)


def divide(table: Flags) -> tuple[dict[str, Flags], Flags]:
    """Tables in a table, by names that serve as file names, and what else it holds."""
    named = {key: value for key, value in table.items() if isinstance(value, dict)}
    for name in named:
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise UserError(f"{name!r} is not a name of letters, digits, '_', '-' and '.'")
    return named, without(table, *named)


def tables(where: str, table: Flags) -> dict[str, Flags]:
    """Those in a table that holds nothing else."""
    named, rest = divide(table)
    if rest:
        raise UserError(
            f"[{where}] holds tables only, such as [{where}.NAME], not {next(iter(rest))!r}"
        )
    return named


def without(table: Flags, *keys: str) -> Flags:
    """A table without some of its keys."""
    return {key: value for key, value in table.items() if key not in keys}


def check_step(where: str, step: Flags) -> None:
    """Of a command that makes data; most of its flags are not known here."""
    makes = step.get("makes")
    stated = [step.get("command"), *(makes if isinstance(makes, list) and makes else [makes])]
    if not all(isinstance(value, str) and value for value in stated):
        raise UserError(f"{where} must state its command, and what files it makes, as text")
    check_read(step, INPUTS, f"{where} ")


def check_pretraining(where: str, flags: Flags) -> None:
    """Of a pretraining run, shared flags included."""
    share = flags.get("patients", 1.0)
    if isinstance(share, bool) or not isinstance(share, float | int) or not 0 < share <= 1:
        raise UserError(f"{where} patients must be a share above 0, at most 1, not {share!r}")
    if share < 1 and not {"steps-per-epoch", "epochs"} <= flags.keys():
        raise UserError(
            f"{where} has patients = {share}: state steps-per-epoch and epochs, too, so that runs"
            " with other shares take as many steps"
        )
    for name in ("task", "train"):
        if name not in flags:
            raise UserError(f"{where} lacks {name}")
    own = OWN | ({"patient-ids"} if "patients" in flags else set())
    check_flags(where, pretraining.trainer.make_parser(), without(flags, "patients"), own)


def check_shared(flags: Flags) -> None:
    """Of [finetuning]: what tells scenarios apart is not shared."""
    for name in ("pretraining", "epoch"):
        if name in flags:
            raise UserError(f"[finetuning] holds {name}, which belongs to [scenarios.NAME]")


def check_scenario(where: str, flags: Flags, runs: Flags) -> None:
    """Of a scenario, without shared flags; `runs` of pretraining by name."""
    run, epoch = flags.get("pretraining"), flags.get("epoch")
    if "pretraining" in flags and run not in list(runs):
        known = ", ".join(runs) or "none"
        raise UserError(f"{where} names the pretraining run {run!r}; known are {known}")
    if "epoch" in flags and (run is None or type(epoch) is not int or epoch < 1):
        raise UserError(f"{where} epoch must be one of a pretraining run, from 1 on, not {epoch!r}")
    if "subset" in flags:
        raise UserError(f"{where} holds subset, which belongs to [[cells]], as subsets")


def check_finetuning(where: str, flags: Flags) -> None:
    """Of a scenario, shared flags included."""
    own = OWN | {"seed"} | ({"weights-file"} if "pretraining" in flags else set())
    flags = without(flags, "pretraining", "epoch")
    check_flags(where, finetuning.trainer.make_parser(), flags, own)


def check_flags(where: str, parser: Parser, flags: Flags, own: set[str]) -> None:
    """Refuse what the command would refuse, and those that are the study's `own`."""
    check_read(flags, READ, f"{where} ")
    for name, value in flags.items():
        if name in own:
            raise UserError(f"{where} holds {name}, which the study sets itself")
        if not isinstance(value, str | int | float | list):
            raise UserError(f"{where} {name} must be a value or a list, not {value!r}")
        try:
            parser.takes(name, text(value) if isinstance(value, list) else value)
        except UserError as error:
            raise UserError(f"{where} {error}") from None


def check_cells(group: Any) -> None:
    """Of a table of [[cells]]."""
    if not isinstance(group, dict):
        raise UserError("cells must be tables, [[cells]]")
    check_kinds(group, CELLS, "[[cells]] ")
    named = group.get("scenarios")
    if not named or not all(isinstance(name, str) for name in named):
        raise UserError("[[cells]] scenarios must be names, at least one")
    parser = finetuning.trainer.make_parser()
    for key, flag in (("seeds", "seed"), ("subsets", "subset")):
        for value in group.get(key, []):
            check_flags(f"[[cells]] {key}:", parser, {flag: value}, set())


def text(value: Any) -> str:
    """A value as it stands on a command line."""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
