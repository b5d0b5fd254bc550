"""Detection of fibrillation on another database: truth of windows, the command, its report."""

import gzip
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import wfdb
from scipy.io import savemat
from sklearn.metrics import confusion_matrix, f1_score, roc_auc_score

from finetuning import prepare
from finetuning.predict import SHIPPED, Predictor
from finetuning.predict import external_validation as validation
from finetuning.predict.external_validation import AF, MIXED, NOT_AF, UNKNOWN, read_rhythms
from finetuning.prepared_set import load_prepared
from recordings import Unusable
from recordings.formats import read_recording
from recordings.synthetic import write_challenge17
from recordings.wfdb_files import read_atr
from report import tables
from tests.helpers import command, put_weights
from utils import metrics

FS = 360  # Hz
MARKS = {5: "N", 100: "AFIB", 200: "AFL", 300: "N"}


@pytest.mark.parametrize(
    ("start", "stop", "rhythms", "true"),
    [
        (100, 200, ["AFIB"], AF),  # from its mark, up to the next
        (100, 201, ["AFIB", "AFL"], MIXED),
        (99, 200, ["N", "AFIB"], MIXED),
        (200, 400, ["AFL", "N"], NOT_AF),
        (300, 9999, ["N"], NOT_AF),  # the last holds to the end
        (4, 50, [UNKNOWN, "N"], UNKNOWN),
        (0, 5, [UNKNOWN], UNKNOWN),
    ],
)
def test_windows(start, stop, rhythms, true):
    assert validation.within(MARKS, start, stop) == rhythms
    assert validation.truth(rhythms) == true


def test_rhythm_marks_among_annotations():
    notes = ["(N\0", "", "(VT\0", "(AFIB\0", "MISSB\0", "note", "(SBR"]
    samples = [3, 4, 9, 9, 12, 15, 20]
    marks = SimpleNamespace(sample=samples, symbol='+N++"++', aux_note=notes)
    assert list(read_rhythms(marks).items()) == [(3, "N"), (9, "AFIB"), (20, "SBR")]
    for symbols, notes in (("NV", ["", ""]), ("++", ["(N", ")"])):
        with pytest.raises(Unusable, match="no rhythm annotations, or those of Icentia11k"):
            read_rhythms(SimpleNamespace(sample=[1, 2], symbol=symbols, aux_note=notes))


def test_windows_of_mitdb(ecg_data):
    """Marks lie just before the beat that they speak of."""
    rhythms = read_rhythms(read_atr(ecg_data / "mitdb" / "201"))
    assert list(rhythms.values())[:3] == ["AFIB", "NOD", "N"] and next(iter(rhythms)) == 60
    assert validation.truth(validation.within(rhythms, 30 * FS, 60 * FS)) == AF


def test_scores_of_a_detector():
    rng = np.random.default_rng(0)
    true, score = rng.random(200) < 0.3, rng.random(200).round(1)  # some are equal
    answered, weights = score > 0.6, rng.integers(0, 3, 200)
    (tn, fp), (fn, tp) = confusion_matrix(true, answered, sample_weight=weights)
    assert metrics.detection(true, answered, score, weights) == pytest.approx({
        "sensitivity": tp / (tp + fn), "specificity": tn / (tn + fp),
        "positive predictive value": tp / (tp + fp),
        "F1": f1_score(true, answered, sample_weight=weights),
        "AUC": roc_auc_score(true, score, sample_weight=weights),
    })  # fmt: skip
    nobody = metrics.detection(~true & true, answered, score)
    assert np.isnan(nobody["sensitivity"]) and np.isnan(nobody["AUC"])


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """Records 201 and 202 of one subject and 103 of another, 100 s each; 104 has no rhythms."""
    root = tmp_path_factory.mktemp("database")
    rng = np.random.default_rng(0)
    for name, rhythms in {"103": {9: "(N"}, "104": {}, "201": {0: "(AFIB", 40 * FS: "(AFL"},
                          "202": {0: "(N", 60 * FS: "(AFIB"}}.items():  # fmt: skip
        signal = rng.normal(-0.3, 0.3, (100 * FS, 2))
        units = {"units": ["mV", "mV"], "fmt": ["212", "212"], "sig_name": ["MLII", "V1"]}
        wfdb.wrsamp(name, FS, p_signal=signal, write_dir=str(root), **units)
        places = np.array([*rhythms, 99 * FS])
        symbols, notes = ["+"] * len(rhythms) + ["N"], [*rhythms.values(), ""]
        wfdb.wrann(name, "atr", places, symbols, aux_note=notes, write_dir=str(root))
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    root = tmp_path_factory.mktemp("weights")
    changes = {"task": "classification", "frame_size": 8192, "dataset": "challenge17"}
    return [put_weights(root / str(n), **changes, classes=list("ANO~x"), mean=n) for n in (0, 1)]


def run(database, out, weights, *flags):
    named = [part for path in weights for part in ("--weights", path)]
    known = ["--records", database, "--device", "cpu", "--precision", "fp32"]
    return command(validation.main, *named, "--out", out, *known, *flags)


def test_a_row_for_each_window(database, weights, tmp_path):
    result = run(database, tmp_path / "both.csv.gz", weights)
    assert result.code == 0 and "1 × no rhythm annotations" in result.err
    assert "3 records of 2 subjects, windows: 5 not AF, 2 AF, 1 unknown, 1 mixed" in result.out
    content = gzip.decompress((tmp_path / "both.csv.gz").read_bytes())
    assert content.startswith(b"record,subject,start,signal,rhythms,truth,answer,prob_A,prob_N")
    table = tables.load_external_validation(tmp_path)["both"]
    assert table["start"].tolist() == [0, 30, 60] * 3
    assert table["subject"].tolist() == ["103"] * 3 + ["201"] * 6
    assert table["truth"].tolist() == [UNKNOWN, NOT_AF, NOT_AF, AF, MIXED, NOT_AF, NOT_AF, NOT_AF,
                                       AF]  # fmt: skip
    assert table["rhythms"][4] == "AFIB AFL"
    # The last window of 201, of both networks.
    signal = wfdb.rdrecord(str(database / "201")).p_signal[60 * FS : 90 * FS, :1]
    predictor = Predictor.load(*weights, device="cpu", precision="fp32", band_pass=False)
    (expected,) = predictor.probabilities([signal], FS)
    columns = [f"prob_{name}" for name in "ANO~x"]
    np.testing.assert_allclose(table.loc[5, columns].astype(float), expected, atol=2e-5)
    assert table["answer"][5] == "ANO~x"[expected.argmax()]


def test_the_band_and_the_lead(database, weights, tmp_path):
    for name, flags in {"plain": [], "band": ["--band-pass"], "other": ["--channel", 1]}.items():
        assert run(database, tmp_path / f"{name}.csv.gz", weights[:1], *flags).code == 0
    loaded = tables.load_external_validation(tmp_path)
    assert [t["signal"][0] for t in loaded.values()] == ["as it is", "as it is", "0.5 to 40 Hz"]
    plain, *others = (loaded[name]["prob_A"].to_numpy() for name in ("plain", "band", "other"))
    assert not any(np.allclose(plain, other, atol=1e-4) for other in others)


def test_a_prepared_part_is_scored_as_predict_answers(tmp_path):
    """From the recordings' own files; one is flat, and has no class."""
    source, out, file = tmp_path / "training2017", tmp_path / "t.csv", tmp_path / "p_test.npz"
    write_challenge17(source, 40, seed=0, seconds=(10.0, 10.001))
    command(prepare.main, "--source", source, "--labels", "zip", "--out", tmp_path / "p")
    part, zeros = load_prepared(file), np.zeros((1, 3000), np.int16)
    savemat(source / f"{part.record_ids[0]}.mat", {"val": zeros}, format="4")
    result = run(source, out, [SHIPPED], "--labels", file, "--band-pass")
    table = pd.read_csv(out, keep_default_na=False)
    assert table["record"].tolist() == part.record_ids.tolist() and table["reason"][0] == "flat"
    signal = read_recording(source / table["record"][1]).signal
    expected = Predictor.load(device="cpu", precision="fp32").predict(signal, 300).probabilities
    columns = table[[f"prob_{name}" for name in "ANO~"]].replace("", "nan").astype(float)
    np.testing.assert_allclose(columns.loc[1], expected, atol=1e-5)
    told, probable = table["answer"] != "", np.array(["", *columns[1:].idxmax(axis=1).str[-1]])
    for words, rows in (("most probable class: 8", told | True), ("answers", told)):
        true = part.classes[part.y.argmax(1)][rows]
        f1 = f1_score(true, probable[rows], labels=list("ANO~"), average=None, zero_division=0)
        listed = ", ".join(f"{name} {value:.3f}" for name, value in zip("ANO~", f1, strict=True))
        assert words in result.out and f"F1 {listed}\n" in result.out
    result = run(source, out, [SHIPPED], "--labels", file, "--overwrite", "--channel", 1)
    result.refused("not for --labels")


def test_refused(database, weights, tmp_path):
    out = tmp_path / "t.csv"
    run(database, out, weights, "--channel", 2).refused("no lead 2")
    run(tmp_path, out, weights).refused("holds no .hea files")
    out.touch()
    run(database, out, weights).refused("--overwrite")
    fine = {"task": "classification", "classes": list("ANO~x")}
    for changes, words in (
        ({"classes": list("BNO~x")}, "does not detect A in one lead"),
        ({"multi_label": True}, "does not detect A in one lead"),
        ({"in_channels": 2}, "does not detect A in one lead"),
        ({"derived_from": ["icentia11k", "mitdb"]}, "derive from mitdb"),
    ):
        other = put_weights(tmp_path / "other", **fine | changes)
        run(database, tmp_path / "new.csv", [other]).refused(words)
