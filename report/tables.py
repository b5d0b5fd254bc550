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
from utils.files import read_json

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
    by_seed = scores.pivot(index="seed", columns="scenario", values=MACRO_F1)
    rows = []
    for _, row in stats.compare(scores, pairs).iterrows():
        name, baseline, difference = row["scenario"], row["baseline"], row["difference"]
        gains = (by_seed[name] - by_seed[baseline]).dropna()
        rows.append({
            "scenario": name, "minus": baseline,
            "changes": ", ".join(f for f in flags[name] if f not in flags[baseline]),
            MACRO_F1: f"{means[name]} − {means[baseline]}",
            "difference": f"{difference.mean:+.3f}", "95 %, seeds": difference.bounds(),
            "by seed": ", ".join(f"{seed}: {gain:+.3f}" for seed, gain in gains.items()),
            "p (Wilcoxon)": _p_value(row["p"]), "p, Holm": _p_value(row["p_holm"]),
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
        rows.append({
            "weights": name, "signal": table["signal"].iloc[0], "windows": len(kept),
            "AF windows": true.sum(), "subjects": kept["subject"].nunique(),
            "subjects with AF": kept.loc[true, "subject"].nunique(),
            "windows left out": len(table) - len(kept),
        } | {score: str(interval) for score, interval in intervals.items()})  # fmt: skip
    return pd.DataFrame(rows) if rows else None


def external_classes(tables: Tables) -> pd.DataFrame | None:
    """A row per table: how often each class was predicted, by the rhythm of the window."""
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
        kind = np.select(list(kinds.values()), list(kinds), "other")
        classes, row = table.filter(like="prob_").columns.str[5:], {"weights": name}
        for rhythm, group in table.groupby(kind, sort=False)["answer"]:
            shares = [f"{label} {(group == label).mean():.0%}" for label in classes]
            row[f"{rhythm} ({len(group)})"] = ", ".join(shares)
        rows.append(row)
    return pd.DataFrame(rows) if rows else None


def external_records(tables: Tables) -> pd.DataFrame | None:
    """A row per record with AF, and one for all others: AF windows that were detected of how many;
    false alarms."""
    columns = {}
    for name, table in tables.items():
        kept, true, predicted = detections(table)
        group = kept["record"].where(kept["record"].isin(kept.loc[true, "record"]), "others")
        cells = {"AF": true, "not AF": ~true, "hits": true & predicted, "false": ~true & predicted}
        sums = pd.DataFrame(cells).groupby(group.to_numpy()).sum().astype(str)
        columns |= {"AF": sums["AF"], "not AF": sums["not AF"]}
        columns[name] = sums["hits"] + " of " + sums["AF"] + "; " + sums["false"]
    return pd.DataFrame(columns).rename_axis("record").reset_index() if columns else None


def precisions(folder: Path) -> pd.DataFrame | None:
    """Validation scores of the same pretraining runs in bf16 and fp32 (`bf16_seed1.csv`, …), and
    their differences, paired by seed."""
    rows = {}
    for path in sorted(folder.glob("*_seed*.csv")):
        precision, _, seed = path.stem.partition("_seed")
        history = collect.read_history(path)
        chosen = history.loc[history["val_loss"].idxmin()]
        for label, row in {"last epoch": history.iloc[-1], "chosen epoch": chosen}.items():
            for score, column in {"loss": "val_loss", MACRO_F1: "macro_f1"}.items():
                rows.setdefault(f"{score}, {label}", {})[precision, int(seed)] = row[column]
    if not rows:
        return None
    bf16, fp32 = (pd.DataFrame(rows).loc[name] for name in ("bf16", "fp32"))
    difference = (bf16 - fp32).dropna()
    return pd.DataFrame({
        "on validation": list(rows), "seeds": len(difference),
        "bf16": bf16.agg(stats.mean_and_sd).array, "fp32": fp32.agg(stats.mean_and_sd).array,
        "bf16 minus fp32, 95 % over seeds": [str(stats.over_seeds(difference[n])) for n in rows],
    })  # fmt: skip


def objectives(folder: Path) -> pd.DataFrame | None:
    """Validation scores of each pretraining objective at the chosen epoch, beside those of a
    prediction that ignores the signal."""
    rows = []
    for path in sorted(folder.glob("*_scores.json")):
        scores = read_json(path)
        row = {"objective": path.name.removesuffix("_scores.json"), "chosen epoch": scores["epoch"]}
        for name, label in {"loss": "loss", "acc": "accuracy", "macro_f1": MACRO_F1}.items():
            for part, words in {
                "validation": label,
                "without_input": f"{label}, no signal",
            }.items():
                # Earlier versions called macro F1 f1.
                row[words] = f"{scores[part].get(name, scores[part].get('f1')):.3f}"
        rows.append(row)
    return pd.DataFrame(rows) if rows else None


def benchmarks(folder: Path) -> pd.DataFrame | None:
    """Every measured speed: median and range over its repeats."""
    rows = []
    for path in sorted(folder.glob("*.json")):
        saved = read_json(path)
        machine = f"{saved.get('machine', '')}, {saved.get('date', '')}"
        for quantity, values in saved.items():
            if quantity in ("date", "machine", "versions", "flags") or not isinstance(values, dict):
                continue
            if quantity == "by_patients":  # only cohorts that were measured, not extrapolated
                cohorts = map(str, saved["flags"]["patients"])
                values = {f"{n}: {key}": v for n in cohorts for key, v in values[n].items()}
            for name, value in values.items():
                repeats = value if isinstance(value, list) else [value]
                median, low, high = (
                    f"{v:,.0f}" if abs(v) >= 1000 else f"{v:.4g}"
                    for v in (np.median(repeats), min(repeats), max(repeats))
                )
                rows.append({
                    "benchmark": path.stem, "quantity": quantity.replace("_", " "), "of": name,
                    "median": median, "range": f"{low} to {high}" if len(repeats) > 1 else "",
                    "repeats": len(repeats), "machine": machine,
                })  # fmt: skip
    return pd.DataFrame(rows) if rows else None
