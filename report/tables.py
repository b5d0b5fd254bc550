"""Tables of the report; None where there are no results."""

from pathlib import Path

import numpy as np
import pandas as pd

from finetuning.predict.external_validation import AF, CLASS, MIXED, NOT_AF
from recordings.annotations import FLUTTER
from report import collect, stats
from report.collect import NO_FLAGS, RUN, Results
from report.stats import MACRO_F1
from utils.cli import UserError

WINDOW = ["record", "subject", "start", "rhythms", "truth"]  # of a table of external validation
Tables = dict[str, pd.DataFrame]


def published() -> pd.DataFrame:
    """Scores of the paper and of its replication, with their source."""
    return pd.read_csv(Path(__file__).with_name("published.csv"))


def scores(studies: dict[str, Results]) -> pd.DataFrame:
    """Test scores and epochs, mean ± sample standard deviation: the published ones, then a row per
    scenario of each study, with 95 % intervals of its mean macro F1 over seeds and recordings.

    The published CinC-3 is computed from the published means of N, A and O.
    """
    rows = published().assign(records=6395, max_epochs=200, flags=NO_FLAGS)
    frames = rows["frame"].map("Icentia11k, frames of {:.0f}".format, na_action="ignore")
    words = rows.assign(pretraining_dataset=frames).apply(protocol, axis=1)
    theirs = rows[["source", "network"]].assign(weights=rows["objective"], protocol=words)
    theirs["runs"] = rows["runs"]
    for name in (MACRO_F1, "CinC-3", "F1 N", "F1 A", "F1 O", "F1 ~", "epochs"):
        values = zip(rows[name], rows[f"{name} sd"], strict=True) if name in rows else ()
        digits = 1 if name == "epochs" else 3
        theirs[name] = [
            f"{m:.{digits}f} ± {sd:.{digits}f}" if m == m else "" for m, sd in values
        ] or ""
    theirs["CinC-3"] = rows[["F1 N", "F1 A", "F1 O"]].mean(axis=1).map("{:.3f}".format)
    ours = [_study_scores(study, results) for study, results in studies.items()]
    return pd.concat([theirs, *ours], ignore_index=True).astype(object).fillna("")


def _study_scores(study: str, results: Results) -> pd.DataFrame:
    by_run, cells = stats.score_runs(results.predictions), collect.describe(results.runs)
    table = stats.summarise(by_run).set_index("scenario")
    epochs = results.history.groupby(RUN)["epoch"].max().groupby("scenario")
    chosen = results.runs.groupby("scenario")["chosen_epoch"]
    seeds = {name: stats.over_seeds(f1) for name, f1 in by_run.groupby("scenario")[MACRO_F1]}
    recordings = stats.over_recordings(results.predictions)
    table["epochs"] = epochs.agg(stats.mean_and_sd, digits=1)
    table["chosen epoch"] = chosen.agg(stats.mean_and_sd, digits=1)
    table["95 %, seeds"] = [seeds[name].bounds() for name in table.index]
    table["95 %, recordings"] = [recordings[name].bounds() for name in table.index]
    about = cells[["network"]].assign(weights=cells.index, protocol=cells.apply(protocol, axis=1))
    about.insert(0, "source", f"here: {study}")
    return about.join(table)


def protocol(cell: pd.Series) -> str:
    """How the runs of a scenario were pretrained and fine-tuned, as far as it was recorded."""
    words = {
        "objective": "{}", "pretraining_dataset": "{}", "pretraining_patients": "{:,.0f} patients",
        "fraction": "{:.3g} % of the patients", "records": "{:,.0f} labelled recordings",
        "labels": "labels {}", "max_epochs": "at most {:.0f} epochs",
    }  # fmt: skip
    cell = cell.dropna().to_dict()
    cell |= {"fraction": 100 * cell["fraction"]} if "fraction" in cell else {}
    known = [text.format(cell[name]) for name, text in words.items() if name in cell]
    flags = collect.split_flags(cell["flags"]) if "flags" in cell else ["flags not recorded"]
    return ", ".join(known + flags)


def runs(results: Results) -> pd.DataFrame:
    """How each run was made; checksums are cut short, `runs.csv` has them in full."""
    table = results.runs[[*RUN, "subset", "chosen_epoch", "epochs", "max_epochs", "wall_seconds",
                          "device", "manifest_sha256", "pretraining_manifest_sha256", "commit",
                          "command", "versions"]].copy()  # fmt: skip
    table["wall_seconds"] = table["wall_seconds"].astype(float).round()
    for name in ("manifest_sha256", "pretraining_manifest_sha256", "commit"):
        table[name] = table[name].str[:10]
    return table.convert_dtypes().astype(object).fillna("")


def differences(results: Results) -> pd.DataFrame | None:
    """Test macro F1 of pretrained minus random weights, paired by seed."""
    pairs = collect.pretrained_pairs(collect.describe(results.runs))
    table = _paired(results, stats.score_runs(results.predictions), pairs)
    if table is not None:
        recordings = stats.over_recordings(results.predictions, pairs)
        intervals = [
            recordings[pair] for pair in zip(table["minus"], table["scenario"], strict=True)
        ]
        table.insert(6, "95 %, recordings", [interval.bounds() for interval in intervals])
    return table


def ablation(results: Results) -> pd.DataFrame | None:
    """Validation macro F1 of variants minus that of their baseline, paired by seed: mean of the
    last five epochs, of the best epoch, and of the predictions of the chosen epoch (which include
    `--tta`)."""
    pairs = collect.variant_pairs(collect.describe(results.runs))
    best = results.history.groupby(RUN)["macro_f1"].max().rename(MACRO_F1).reset_index()
    scores = {"last five epochs": stats.last_epochs(results.history), "best epoch": best}
    if results.part == collect.VALIDATION:
        scores["predictions"] = stats.score_runs(results.predictions)
    rows = {name: _paired(results, table, pairs) for name, table in scores.items()}
    rows = {name: table for name, table in rows.items() if table is not None}
    return pd.concat(rows, names=["macro F1 of", None]).reset_index(level=0) if rows else None


def _paired(results: Results, scores: pd.DataFrame, pairs: list) -> pd.DataFrame | None:
    """A row per pair (baseline, scenario) with common seeds."""
    means = scores.groupby("scenario")[MACRO_F1].agg(stats.mean_and_sd)
    flags = collect.describe(results.runs)["flags"].map(collect.split_flags)
    rows = []
    for row in stats.compare(scores, pairs).itertuples():
        changes = [flag for flag in flags[row.scenario] if flag not in flags[row.baseline]]
        rows.append({
            "scenario": row.scenario, "minus": row.baseline, "changes": ", ".join(changes),
            MACRO_F1: f"{means[row.scenario]} − {means[row.baseline]}",
            "difference": f"{row.difference.mean:+.3f}", "95 %, seeds": row.difference.bounds(),
            "by seed": ", ".join(f"{seed}: {gain:+.3f}" for seed, gain in row.by_seed.items()),
            "p (Wilcoxon)": _p_value(row.p), "p, Holm": _p_value(row.p_holm),
        })  # fmt: skip
    return pd.DataFrame(rows) if rows else None


def _p_value(value: float) -> str:
    return "too few seeds" if pd.isna(value) else f"{value:.3g}"


def load_external_validation(folder: Path) -> Tables:
    """Tables of `finetuning.predict.external_validation` by name, unfiltered signals first.

    Raises:
        UserError: a file is not such a table, or has other windows than the others.
    """
    tables = {}
    for path in sorted(folder.glob("*.csv.gz")):
        table = tables[path.name.removesuffix(".csv.gz")] = collect.read_table(path)
        if table.empty or {*WINDOW, "signal", "answer", f"prob_{CLASS}"} - {*table}:
            raise UserError(f"{path} is no table of finetuning.predict.external_validation")
        if not table[WINDOW].equals(next(iter(tables.values()))[WINDOW]):
            raise UserError(f"{path} holds other windows than the tables beside it; move it away")
    return dict(sorted(tables.items(), key=lambda item: item[1]["signal"][0] != "as it is"))


def detections(table: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Windows that are entirely AF or not AF; which are AF; which were classified as AF."""
    table = table[table["truth"].isin([AF, NOT_AF])]
    return table, (table["truth"] == AF).to_numpy(), (table["answer"] == CLASS).to_numpy()


def external_scores(tables: Tables) -> pd.DataFrame | None:
    """A row per table: windows, subjects, and scores with their intervals over subjects."""
    rows = []
    for name, table in tables.items():
        kept, true, predicted = detections(table)
        subjects, score = kept["subject"].to_numpy(), kept[f"prob_{CLASS}"].to_numpy()
        intervals = stats.over_subjects(subjects, true, predicted, score)
        cells = {label: str(i) for label, i in intervals.items() if not np.isnan(i.mean)}
        rows.append({
            "weights": name, "signal": table["signal"].iloc[0], "windows": len(kept),
            "AF windows": true.sum(), "subjects": kept["subject"].nunique(),
            "subjects with AF": kept.loc[true, "subject"].nunique(),
            "windows left out": len(table) - len(kept), **cells,
        })  # fmt: skip
    return pd.DataFrame(rows) if rows else None


def external_classes(tables: Tables, by: str) -> pd.DataFrame | None:
    """A row per table: how often each class was predicted, `by` the rhythm of the windows, or by
    the record of the windows with AF only."""
    rows = []
    for name, table in tables.items():
        rhythms = table["rhythms"].str.split()
        kinds = {
            AF: table["truth"] == AF,
            "AF in part": table["truth"] == MIXED,
            "before the first annotation": table["truth"] != NOT_AF,
            "flutter": rhythms.map(lambda names: FLUTTER in names),
            "paced": rhythms.map(lambda names: "P" in names),
            "sinus only": table["rhythms"] == "N",
        }
        rhythm = pd.Series(np.select(list(kinds.values()), list(kinds), "other"), table.index)
        group = rhythm if by == "rhythm" else table["record"].where(rhythm == AF)
        classes, row = table.filter(like="prob_").columns.str[5:], {"weights": name}
        for label, answers in table["answer"].groupby(group, sort=False):
            shares = [f"{c} {(answers == c).mean():.0%}" for c in classes]
            row[f"{label} ({len(answers)})"] = ", ".join(shares)
        rows.append(row)
    return pd.DataFrame(rows) if rows else None
