"""Tables of the report; empty where there are no results."""

from pathlib import Path

import numpy as np
import pandas as pd

from finetuning.predict.external_validation import AF, CLASS, MIXED, NOT_AF
from recordings.annotations import FLUTTER
from report import collect, stats
from report.collect import RUN, Results
from report.stats import MACRO_F1
from utils.cli import UserError

WINDOW = ["record", "subject", "start", "rhythms", "truth"]  # of a table of external validation
LAST_EPOCHS = 5
Tables = dict[str, pd.DataFrame]


def published() -> pd.DataFrame:
    """Scores of the paper and of its replication, with their protocol and source."""
    return pd.read_csv(Path(__file__).with_name("published.csv"), dtype={"CinC-3": str})


def scores(studies: dict[str, Results]) -> pd.DataFrame:
    """Test scores and epochs, mean ± sample standard deviation: the published ones, then a row per
    scenario of each study, with 95 % intervals of its mean macro F1 over seeds and recordings.

    The published CinC-3 is computed from the published means of N, A and O.
    """
    rows = published()
    about = rows[["source", "network"]].assign(weights=rows["objective"])
    about["protocol"] = rows.apply(protocol, axis=1)
    theirs = about.join(rows.loc[:, "runs":"epochs"])
    ours = [_study_scores(study, results) for study, results in studies.items()]
    return pd.concat([theirs, *ours], ignore_index=True).astype(object).fillna("")


def _study_scores(study: str, results: Results) -> pd.DataFrame:
    by_run, cells = stats.score_runs(results.predictions), collect.describe(results.runs)
    table = stats.summarise(by_run).set_index("scenario")
    recordings = stats.over_recordings(results.predictions)
    runs, f1 = results.runs.groupby("scenario"), by_run.groupby("scenario")[MACRO_F1]
    table["epochs"] = runs["epochs"].agg(stats.mean_and_sd, digits=1)
    table["chosen epoch"] = runs["chosen_epoch"].agg(stats.mean_and_sd, digits=1)
    table["95 %, seeds"] = f1.agg(lambda values: stats.over_seeds(values).bounds())
    table["95 %, recordings"] = [recordings[name].bounds() for name in table.index]
    about = cells[["network"]].assign(weights=cells.index, protocol=cells.apply(protocol, axis=1))
    about.insert(0, "source", f"here: {study}")
    return about.join(table)


def protocol(cell: pd.Series) -> str:
    """How the runs of a scenario were pretrained and fine-tuned, as far as it was recorded."""
    words = {
        "objective": "{}", "pretraining_dataset": "{}", "pretraining_patients": "{:,.0f} patients",
        "pretraining_fraction": "{:.1%} of the patients", "records": "{:,.0f} labelled recordings",
        "labels": "labels {}", "max_epochs": "at most {:.0f} epochs",
    }  # fmt: skip
    known = cell.dropna()
    parts = [text.format(known[name]) for name, text in words.items() if name in known]
    return ", ".join(parts + collect.split_flags(cell["flags"]))


def runs(results: Results) -> pd.DataFrame:
    """How each run was made; checksums are cut short, `runs.csv` has them in full."""
    table = results.runs[[*RUN, "subset", "chosen_epoch", "epochs", "max_epochs", "wall_seconds",
                          "device", "manifest_sha256", "pretraining_manifest_sha256", "commit",
                          "command", "versions"]].copy()  # fmt: skip
    table["wall_seconds"] = table["wall_seconds"].astype(float).round()
    for name in ("manifest_sha256", "pretraining_manifest_sha256", "commit"):
        table[name] = table[name].str[:10]
    return table.convert_dtypes().astype(object).fillna("")


def differences(results: Results) -> pd.DataFrame:
    """Test macro F1 of pretrained minus random weights, paired by seed."""
    pairs = collect.pretrained_pairs(collect.describe(results.runs))
    table = _paired(results, stats.score_runs(results.predictions), pairs)
    intervals = stats.over_recordings(results.predictions, pairs)
    if len(table):
        bounds = [intervals[pair].bounds() for pair in pairs if pair in intervals]
        table.insert(6, "95 %, recordings", bounds)
    return table


def ablation(results: Results) -> pd.DataFrame:
    """Validation macro F1 of variants minus that of their baseline, paired by seed: mean of the
    last five epochs, of the best epoch, and of the predictions of the chosen epoch (which include
    `--tta`)."""
    pairs = collect.variant_pairs(collect.describe(results.runs))
    f1 = results.history.rename(columns={"macro_f1": MACRO_F1}).sort_values("epoch")
    last = f1.groupby(RUN).tail(LAST_EPOCHS).groupby(RUN)[MACRO_F1].mean()
    best = f1.groupby(RUN)[MACRO_F1].max()
    scores = {"last five epochs": last.reset_index(), "best epoch": best.reset_index()}
    if results.part == collect.VALIDATION:
        scores["predictions"] = stats.score_runs(results.predictions)
    rows = {name: _paired(results, table, pairs) for name, table in scores.items()}
    return pd.concat(rows, names=["macro F1 of", None]).reset_index(level=0)


def _paired(results: Results, scores: pd.DataFrame, pairs: list) -> pd.DataFrame:
    """A row per pair (baseline, scenario) with common seeds."""
    means = scores.groupby("scenario")[MACRO_F1].agg(stats.mean_and_sd)
    flags = collect.describe(results.runs)["flags"].map(collect.split_flags)
    rows = []
    for row in stats.compare(scores, pairs).itertuples():
        changes = [flag for flag in flags[row.scenario] if flag not in flags[row.baseline]]
        p, holm = (f"{p:.3g}".replace("nan", "too few seeds") for p in (row.p, row.p_holm))
        rows.append({
            "scenario": row.scenario, "minus": row.baseline, "changes": ", ".join(changes),
            MACRO_F1: f"{means[row.scenario]} − {means[row.baseline]}",
            "difference": f"{row.difference.mean:+.3f}", "95 %, seeds": row.difference.bounds(),
            "by seed": ", ".join(f"{seed}: {gain:+.3f}" for seed, gain in row.by_seed.items()),
            "p (Wilcoxon)": p, "p, Holm": holm,
        })  # fmt: skip
    return pd.DataFrame(rows)


def load_external_validation(folder: Path) -> Tables:
    """Tables of `finetuning.predict.external_validation` by name, unfiltered signals first.

    Raises:
        UserError: a file is not such a table, or has other windows than the others.
    """
    texts = dict.fromkeys(["record", "subject", "signal", "rhythms", "truth", "answer"], str)
    tables = {}
    for path in sorted(folder.glob("*.csv.gz")):
        table = collect.read_table(path, **texts, **{"start": float, f"prob_{CLASS}": float})
        tables[path.name.removesuffix(".csv.gz")] = table
        if not table[WINDOW].equals(next(iter(tables.values()))[WINDOW]):
            raise UserError(f"{path} holds other windows than the tables beside it; move it away")
    return dict(sorted(tables.items(), key=lambda item: item[1]["signal"][0] != "as it is"))


def detections(table: pd.DataFrame) -> pd.DataFrame:
    """Windows that are entirely AF or not AF, with `true` (AF), `predicted` and `score`."""
    kept = table[table["truth"].isin([AF, NOT_AF])].rename(columns={f"prob_{CLASS}": "score"})
    return kept.assign(true=kept["truth"] == AF, predicted=kept["answer"] == CLASS)


def external_scores(tables: Tables) -> pd.DataFrame:
    """A row per table: windows, subjects, and scores with their intervals over subjects."""
    rows = []
    for name, table in tables.items():
        windows = detections(table)
        scores = stats.over_subjects(windows).items()
        rows.append({
            "weights": name, "signal": table["signal"].iloc[0], "windows": len(windows),
            "AF windows": windows["true"].sum(), "subjects": windows["subject"].nunique(),
            "subjects with AF": windows.loc[windows["true"], "subject"].nunique(),
            "windows left out": len(table) - len(windows),
            **{label: str(score) for label, score in scores if not np.isnan(score.mean)},
        })  # fmt: skip
    return pd.DataFrame(rows)


def external_classes(tables: Tables, by: str) -> pd.DataFrame:
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
    return pd.DataFrame(rows)
