"""What a description of a study may hold; everything else is refused, in one line."""

import re
from typing import Any

import finetuning.trainer
import pretraining.trainer
from utils.cli import Parser, UserError

Flags = dict[str, Any]  # flags without dashes, and their values

CELLS = {"scenarios": list, "seeds": list, "subsets": list}
WORDS = {str: "text", dict: "a table", list: "a list"}
OWN = {"job-dir", "resume", "overwrite"}  # flags that the study gives itself


def check_kinds(table: Flags, kinds: dict[str, type], where: str) -> None:
    """Refuse unknown keys, and values of another type."""
    for key, value in table.items():
        if key not in kinds:
            raise UserError(f"{where}unknown key {key!r}; known are {', '.join(kinds)}")
        if not isinstance(value, kinds[key]):
            raise UserError(f"{where}{key} must be {WORDS[kinds[key]]}, not {value!r}")


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
    """Of a command that makes data; its flags are not known here."""
    for name, kind in (("command", str), ("makes", str | list)):
        if not (isinstance(step.get(name), kind) and step[name]):
            raise UserError(f"{where} must state its command, and what files it makes")


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
