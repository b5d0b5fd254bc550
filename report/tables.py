"""Tables of the report, as text: of one study, beside what was published."""

from pathlib import Path

import pandas as pd

from report import scenarios
from report import stats as statistics
from report.collect import RUN, Results
from report.provenance import RANDOM
from report.stats import MACRO_F1, Interval

NOT_RUN = "not run"
PUBLISHED = Path(__file__).with_name("published.csv")
SCORES = [MACRO_F1, "CinC-3", "F1 N", "F1 A", "F1 O", "F1 ~"]
CINC3 = ["F1 N", "F1 A", "F1 O"]
SHORT = 10  # digits of a checksum that are shown


def published() -> pd.DataFrame:
    """Rows of the paper and of the replication, with their source."""
    return pd.read_csv(PUBLISHED)


def studied(results: Results) -> pd.DataFrame:
    """What was run: a row per scenario."""
    cells, runs = scenarios.describe(results.runs), results.runs.groupby("scenario")
    hours = runs["wall_seconds"].sum(min_count=1) / 3600
    table = {
        "scenario": cells.index,
        "network": [_network(cell) for _, cell in cells.iterrows()],
        "pretrained": [_pretrained(cell) for _, cell in cells.iterrows()],
        "labelled recordings": cells["records"].map("{:,.0f}".format, na_action="ignore"),
        "labels": cells["labels"],
        "epochs, at most": cells["max_epochs"].map("{:.0f}".format, na_action="ignore"),
        "seeds": cells["seeds"].map(lambda seeds: ", ".join(map(str, seeds))),
        "hours, all runs": hours.reindex(cells.index).map("{:.1f}".format, na_action="ignore"),
        "other flags": cells["flags"],
        "device": cells["device"],
    }
    return pd.DataFrame(table).astype(object).fillna(scenarios.UNKNOWN).reset_index(drop=True)


def _network(cell: pd.Series) -> str | None:
    known = scenarios.network(cell)
    return f"{cell['network']} {known}" if known else None


def tested(results: Results) -> pd.DataFrame:
    """Recordings of the test set, by class."""
    run = next(run for _, run in results.predictions.groupby(RUN, sort=False))
    counts, classes = statistics.confusion(run)
    row = dict(zip(classes, counts.sum(1), strict=True))
    return pd.DataFrame([{"recordings of the test set": counts.sum()} | row])


def _pretrained(cell: pd.Series) -> str | None:
    if cell["objective"] == RANDOM:
        return "no"
    if pd.isna(cell["pretraining_dataset"]):
        return None
    patients, fraction = cell["pretraining_patients"], cell["fraction"]
    known = f", {patients:,.0f} patients" if pd.notna(patients) else ""
    known += f" ({scenarios.share(fraction)})" if pd.notna(fraction) else ""
    return f"{cell['objective']}, {cell['pretraining_dataset']}{known}"


def sources(results: Results) -> pd.DataFrame:
    """Where each run comes from, checksums cut short; `runs.csv` has them whole."""
    runs = results.runs
    table = runs[["scenario", "seed", "chosen_epoch", "epochs"]].copy()
    table["minutes"] = (runs["wall_seconds"] / 60).round()
    table["data"] = runs["manifest_sha256"].str[:SHORT]
    table["pretraining data"] = runs["pretraining_manifest_sha256"].str[:SHORT]
    table["commit"] = runs["commit"].str[:SHORT]
    table[["command", "versions"]] = runs[["command", "versions"]]
    return _integers(table.rename(columns={"chosen_epoch": "chosen epoch"}))


def scores(results: Results) -> pd.DataFrame:
    """Test scores, mean ± sd, published rows first, then ours with their two intervals.

    The published CinC-3 is calculated here from the means of the three classes.
    """
    networks = scenarios.describe(results.runs)["network"]
    by_run = statistics.score_runs(results.predictions)
    ours = statistics.summarise(by_run).set_index("scenario")
    seeds = by_run.groupby("scenario")[MACRO_F1].apply(statistics.over_seeds)
    recordings = statistics.over_recordings(results.predictions)
    ours["95 %, seeds"] = [seeds[name].ends() for name in ours.index]
    ours["95 %, recordings"] = [recordings[name].ends() for name in ours.index]
    ours = ours.loc[networks.index].reset_index(names="weights")
    ours.insert(0, "source", "here")
    ours.insert(1, "network", networks.to_numpy())
    table = pd.concat([_published_scores(), ours], ignore_index=True).astype(object).fillna("")
    columns = ["source", "network", "weights", "runs", *SCORES]
    others = [name for name in table if name not in columns]  # other classes, intervals
    return table[[*(name for name in columns if name in table), *others]]


def calibration(results: Results) -> pd.DataFrame:
    """How far the probabilities on the test set can be believed: mean ± sd over runs."""
    table = statistics.summarise(statistics.calibration(results.predictions)).set_index("scenario")
    table = table.loc[scenarios.describe(results.runs).index].reset_index(names="weights")
    known = [scenarios.temperature(results.runs, name) for name in table["weights"]]
    table.insert(2, "probabilities", known)
    return table


def _published_scores() -> pd.DataFrame:
    rows = published()
    table = rows[["source", "network", "runs"]].copy()
    table.insert(2, "weights", [_weights(row) for _, row in rows.iterrows()])
    for name in (MACRO_F1, *CINC3, "F1 ~"):
        pairs = zip(rows[name], rows[f"{name} sd"], strict=True)
        table[name] = [f"{mean:.3f} ± {sd:.3f}" for mean, sd in pairs]
    return table.assign(**{"CinC-3": rows[CINC3].mean(axis=1).map("{:.3f}".format)})


def _weights(row: pd.Series) -> str:
    if row["objective"] == RANDOM:
        return RANDOM
    return f"{row['objective']}, frame {row['frame']:.0f}, {scenarios.share(row['fraction'])}"


def differences(results: Results) -> pd.DataFrame | None:
    """Macro F1 of pretrained minus random weights, seed by seed."""
    pairs = scenarios.pairs(scenarios.describe(results.runs))
    found = statistics.compare(statistics.score_runs(results.predictions), pairs)
    if found.empty:
        return None
    recordings = statistics.over_recordings(results.predictions, pairs)
    rows = found.iterrows()
    return pd.DataFrame(
        {
            "scenario": found["scenario"],
            "minus": found["baseline"],
            "seeds": found["seeds"],
            "difference": [f"{difference.mean:+.3f}" for difference in found["difference"]],
            "95 %, seeds": found["difference"].map(Interval.ends),
            "95 %, recordings": [
                recordings[row["baseline"], row["scenario"]].ends() for _, row in rows
            ],
            "seeds that gain": found["wins"],
            "p (Wilcoxon)": found["p"].map(p_value),
            "p, Holm": found["p_holm"].map(p_value),
        }
    )


def p_value(value: float) -> str:
    return "too few seeds for a test" if pd.isna(value) else f"{value:.3g}"


def epochs(results: Results) -> pd.DataFrame:
    """Epochs until the run stopped and epochs chosen, mean ± sd, published rows first."""
    rows = published().dropna(subset="epochs")
    theirs = rows[["source", "network", "runs"]].copy()
    theirs.insert(2, "weights", [_weights(row) for _, row in rows.iterrows()])
    pairs = zip(rows["epochs"], rows["epochs sd"], strict=True)
    theirs["epochs run"] = [f"{mean:.1f} ± {sd:.1f}" for mean, sd in pairs]
    run = results.history.groupby(["scenario", "seed"])["epoch"].max()
    by_scenario = results.runs.groupby("scenario")
    ours = [
        {
            "source": "here",
            "network": cell["network"],
            "weights": name,
            "runs": len(run[name]),
            "epochs run": statistics.mean_and_sd(run[name], 1),
            "chosen epoch": statistics.mean_and_sd(by_scenario.get_group(name)["chosen_epoch"], 1),
            "ended before the limit": _ended(run[name], cell["max_epochs"]),
        }
        for name, cell in scenarios.describe(results.runs).iterrows()
    ]
    return pd.concat([theirs, pd.DataFrame(ours)], ignore_index=True).astype(object).fillna("")


def _ended(epochs: pd.Series, limit: float) -> str:
    if pd.isna(limit):
        return scenarios.UNKNOWN
    return f"{(epochs < limit).sum()} of {len(epochs)} (limit {limit:.0f})"


def _integers(table: pd.DataFrame) -> pd.DataFrame:
    """Whole numbers as such, also where some are missing; missing cells empty."""
    numbers = table.select_dtypes("number").columns
    return table.astype(dict.fromkeys(numbers, "Int64")).astype(object).fillna("")
