"""PTB-XL's files to prepared sets: statements to classes, folds to parts."""

import numpy as np
import pandas as pd
import pytest

from finetuning import prepare
from finetuning.datasets import ptbxl
from finetuning.prepared_set import load_prepared
from tests.helpers import command, noise, put_challenge
from utils.model_card import TWELVE_LEADS

NONE = np.nan
STATEMENTS = pd.DataFrame({
    "diagnostic": [1, 1, NONE, NONE, NONE], "form": [NONE, 1, NONE, 1, NONE],
    "rhythm": [NONE, NONE, 1, NONE, 1],
}, index=["NORM", "1AVB", "SR", "LVOLT", "AFIB"])  # fmt: skip
CODES = ({"NORM": 100.0, "SR": 0.0}, {"1AVB": 50.0, "AFIB": 0.0}, {"LVOLT": 0.0})
NAMES = [name.upper() for name in TWELVE_LEADS]  # AVR, as in PTB-XL's headers


def row(number):
    return {
        "ecg_id": number, "patient_id": f"{100 + number % 10}.0", "report": "one, two\nlines",
        "scp_codes": str(CODES[number % 3]), "strat_fold": number % 10 + 1,
        "filename_lr": f"records100/{number:05}_lr", "filename_hr": f"records500/{number:05}_hr",
    }  # fmt: skip


def rows(**changes):
    """Thirty, of which the one with ecg_id 7 is changed."""
    return [row(number) | (changes if number == 7 else {}) for number in range(30)]


@pytest.fixture
def source(tmp_path):
    for fs, ending in ((500, "hr"), (100, "lr")):
        for number in range(30):
            path = tmp_path / f"ptbxl/records{fs}/{number:05}_{ending}"
            put_challenge(path, noise(2 * fs, seed=number), fs, NAMES)
    put(tmp_path / "ptbxl", rows())
    STATEMENTS.to_csv(tmp_path / "ptbxl/scp_statements.csv")
    return tmp_path / "ptbxl"


def put(folder, rows):
    pd.DataFrame(rows).to_csv(folder / "ptbxl_database.csv", index=False)


@pytest.fixture
def prepared(tmp_path):
    def run(source, *flags):
        flags = ["--dataset", "ptbxl", "--source", source, "--out", tmp_path / "out/p", *flags]
        return command(prepare.main, *flags)

    return run


def load(tmp_path):
    names = ("train", "val", "test")
    parts = {name: load_prepared(tmp_path / f"out/p_{name}.npz") for name in names}
    return parts, {n: {int(r) % 10 + 1 for r in part.record_ids} for n, part in parts.items()}


def test_folds_and_classes(source, prepared, tmp_path):
    put(source, rows(filename_hr="records500/none"))
    result = prepared(source)
    assert result.code == 0 and "10 × no label, such as 2" in result.err, result
    assert "1 × no .hea, which says how it was sampled, such as 7" in result.err
    parts, folds = load(tmp_path)
    assert folds["val"] == {9} and folds["test"] == {10} and not folds["train"] & {9, 10}
    assert sum(map(len, parts.values())) == 19
    for part in parts.values():
        assert part.classes.tolist() == ["SR", "AFIB"] and part.signal.shape[1] == 12
        expected = [[int(int(r) % 3 == 0), int(int(r) % 3 == 1)] for r in part.record_ids]
        assert part.y.tolist() == expected
    manifest = parts["train"].manifest
    assert (manifest["labels"], manifest["seed"], manifest["test_size"]) == ("rhythm", None, None)
    assert (manifest["mean_mv"], manifest["sd_mv"]) == (list(ptbxl.MEAN_MV), list(ptbxl.SD_MV))


@pytest.mark.parametrize(("category", "classes"), [
    ("diagnostic", ["NORM", "1AVB"]), ("form", ["1AVB", "LVOLT"]),
])  # fmt: skip
def test_other_category_folds_and_rate(source, prepared, tmp_path, category, classes):
    flags = ["--val-folds", "1,2", "--test-folds", "3-5", "--ptbxl-rate", 100, "--fs", 100]
    assert prepared(source, "--category", category, *flags).code == 0
    parts, folds = load(tmp_path)
    assert parts["train"].classes.tolist() == classes and sum(map(len, parts.values())) == 20
    assert folds["val"] == {1, 2} and folds["test"] == {3, 4, 5} and folds["train"] >= {9, 10}
    first = parts["train"].signal[: parts["train"].offsets[1]]
    assert np.array_equal(first, noise(200, seed=int(parts["train"].record_ids[0])))


@pytest.mark.parametrize(("changes", "words"), [
    ({"scp_codes": "__import__('os').abort()"}, "malformed node"),
    ({"scp_codes": "['SR']"}, "'list' object"),
    ({"scp_codes": "{" * 9999}, "SyntaxError"),
    ({"filename_hr": "../secret"}, "a file lies outside the folder"),
    ({"filename_hr": "/etc/secret"}, "a file lies outside the folder"),
    ({"strat_fold": "x"}, "invalid literal"),
    ({"ecg_id": 6}, "an ecg_id occurs twice"),
], ids=str)  # fmt: skip
def test_rows_that_make_no_sense(source, prepared, tmp_path, changes, words):
    put(source, rows(**changes))
    prepared(source).refused("ptbxl_database.csv", words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("flags", "words"), [
    (["--val-folds", 11], "--val-folds and --test-folds: name different"),
    (["--val-folds", "9,10"], "--val-folds and --test-folds: name different"),
    (["--labels", "zip"], "--dataset ptbxl --help"),
    (["--seed", 7], "--seed draw a split, but the data comes with one"),
])  # fmt: skip
def test_bad_flags(source, prepared, flags, words):
    prepared(source, *flags).refused(words)


def test_what_is_missing(source, prepared):
    STATEMENTS.drop(columns="rhythm").to_csv(source / "scp_statements.csv")
    prepared(source).refused("scp_statements.csv: KeyError('rhythm')")
    (source / "ptbxl_database.csv").unlink()
    prepared(source).refused("ptbxl_database.csv", "No such file")
