"""Other annotated databases in Icentia11k's layout."""

import json
import shutil

import numpy as np
import pytest
import wfdb
from scipy.signal import resample_poly

from pretraining import convert
from pretraining.icentia11k import reader as icentia11k
from recordings.annotations import BEAT_CLASSES, RHYTHM_CLASSES
from tests.helpers import command
from utils.files import sha256

FS = 360
RECORDS = ("100", "205")
# (sample at 360 Hz, symbol, rhythm mark); `~` marks noise and is no beat
MARKS = [
    (18, "+", "(N"), (77, "N", ""), (370, "L", ""), (500, "~", ""), (662, "A", ""),
    (940, "+", "(AFIB"), (946, "V", ""), (1231, "/", ""), (1515, "+", "(B"), (1520, "f", ""),
    (1800, "N", ""), (2000, "+", "(SBR"), (2159, "N", ""),
]  # fmt: skip
BEATS = ["normal", "normal", "pac", "pvc", "undefined", "undefined", "normal", "normal"]
RHYTHMS = ["normal", "normal", "normal", "afib", "afib", "noise", "noise", "normal"]


def put_record(folder, name, fs=FS, seed=0):
    """Six seconds of two leads with offsets, in format 212."""
    time = np.arange(6 * FS) / FS
    leads = [np.sin(2 * np.pi * (1 + seed) * time) - 0.5, 0.4 * np.cos(2 * np.pi * 7 * time) + 1]
    wfdb.wrsamp(
        name, fs, ["mV"] * 2, ["MLII", "V1"], p_signal=np.stack(leads, 1), fmt=["212"] * 2,
        adc_gain=[200.0] * 2, baseline=[1024, 0], write_dir=str(folder),
    )  # fmt: skip
    places, symbols, notes = map(list, zip(*MARKS, strict=True))
    wfdb.wrann(name, "atr", np.array(places), symbols, aux_note=notes, write_dir=str(folder))


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    for seed, name in enumerate(RECORDS):
        put_record(folder, name, seed=seed)
    return folder


@pytest.fixture
def out(tmp_path):
    return tmp_path / "sets/out"


@pytest.fixture
def call(out):
    def call(folder, *flags, source="mitdb"):
        return command(
            convert.main, "--source", source, "--from", folder, "--out", out, *flags
        )  # fmt: skip

    return call


def described(out):
    return json.loads((out / "dataset.json").read_text())


def segment(out, patient, lead):
    return out / f"p00/p{patient:05}/p{patient:05}_s{lead:02}"


def signal(path):
    """In mV."""
    return np.fromfile(f"{path}.dat", "<i2") / 1000


def names(codes, classes):
    return [classes[code] for code in codes]


def check_signal(out, source, patient):
    """The written leads are the resampled ones, rounded."""
    leads = wfdb.rdrecord(str(source / str(patient))).p_signal.T
    for number, lead in enumerate(leads):
        expected = resample_poly(lead, 25, 36, padtype="line")
        written = signal(segment(out, patient, number))
        assert len(written) == len(expected) == -(-len(lead) * 25 // 36)
        assert np.abs(written - expected).max() <= 0.5 / 1000 + 1e-9
        assert written[[0, -1]] == pytest.approx(lead[[0, -1]], abs=0.1)  # no step at the ends


def test_one_patient_per_record_one_segment_per_lead(call, source, out):
    code, printed, _ = call(source)
    assert code == 0
    assert "2 patients, 4 segments" in printed
    records, _ = icentia11k.find_records(out)
    assert {patient: [path.name for path in paths] for patient, paths in records.items()} == {
        100: ["p00100_s00", "p00100_s01"], 205: ["p00205_s00", "p00205_s01"],
    }  # fmt: skip
    for path in records[100] + records[205]:
        assert icentia11k.read_header(path) == (1500, 1000.0, 0, True, 0)
    for patient in records:
        check_signal(out, source, patient)


def test_annotations_are_carried_over(call, source, out):
    call(source)
    for lead in (0, 1):
        ends, codes, _, rhythm = icentia11k.read_annotations(segment(out, 100, lead))
        places = [place for place, symbol, _ in MARKS if symbol not in "+~"]
        assert np.abs(ends - np.array(places) * 250 / 360).max() <= 1
        assert ends[-1] < 1500
        assert names(codes, BEAT_CLASSES) == BEATS
        assert names(rhythm, RHYTHM_CLASSES) == RHYTHMS


def test_every_symbol_of_mitdb(call, source, out):
    symbols = [*"NLRejAaJSVEQ/fF", *"|~x[!]"]
    places = 50 * np.arange(1, len(symbols) + 1)
    wfdb.wrann("100", "atr", places, symbols, write_dir=str(source))
    call(source)
    _, codes, _, rhythm = icentia11k.read_annotations(segment(out, 100, 0))
    expected = ["normal"] * 5 + ["pac"] * 4 + ["pvc"] * 2 + ["undefined"] * 4
    assert names(codes, BEAT_CLASSES) == expected
    assert set(names(rhythm, RHYTHM_CLASSES)) == {"noise"}


def test_description_states_what_was_measured_and_from_what(call, source, out):
    call(source)
    about = described(out)
    records, _ = icentia11k.find_records(out)
    written = np.concatenate([signal(path) for paths in records.values() for path in paths])
    constants = icentia11k.read_constants(out)
    assert constants.name == "mitdb"
    assert constants.mean == pytest.approx(written.mean(), rel=1e-9)
    assert constants.sd == pytest.approx(written.std(), rel=1e-9)
    (only,) = about["sources"]
    assert about["samples"] == only["samples"] == len(written)
    assert (only["clipped_samples"], only["uncalibrated"]) == (0, [])
    assert only["patient_of_record"] == {"100": 100, "205": 205}
    assert only["source_sha256"] == {path.name: sha256(path) for path in source.iterdir()}
    assert len(only["source_sha256"]) == 6 and only["licence"].startswith("ODC-By 1.0, https")
    assert str(source) not in json.dumps(about)


def test_records_at_250_hz_stay_as_they_are(call, tmp_path, out):
    put_record(tmp_path, "1", fs=250)
    assert call(tmp_path, source="wfdb")[0] == 0
    original = wfdb.rdrecord(str(tmp_path / "1")).p_signal[:, 0]
    np.testing.assert_allclose(signal(segment(out, 1, 0)), original, atol=1e-9)
    ends, _, _, _ = icentia11k.read_annotations(segment(out, 1, 0))
    assert ends[:3].tolist() == [77, 370, 662]


def test_records_without_numbers_are_numbered(call, tmp_path, out):
    for name in ("b12", "a7"):
        put_record(tmp_path, name)
    assert call(tmp_path, source="wfdb")[0] == 0
    assert described(out)["sources"][0]["patient_of_record"] == {"a7": 0, "b12": 1}


def test_records_of_one_subject_are_named(call, tmp_path, out):
    for name in ("201", "202"):
        put_record(tmp_path, name)
    call(tmp_path)
    assert icentia11k.read_constants(out).same_subject == {202: 201}
    (tmp_path / "201.hea").unlink()
    call(tmp_path, "--overwrite")
    assert icentia11k.read_constants(out).same_subject == {}


def test_existing_set_is_kept_without_overwrite(call, source, out):
    call(source)
    before = sha256(out / "dataset.json")
    (source / "205.hea").unlink()
    code, _, err = call(source)
    assert code == 2 and err.startswith(f"error: {out} exists") and err.count("\n") == 1
    assert sha256(out / "dataset.json") == before
    assert call(source, "--overwrite")[0] == 0
    assert described(out)["patients"] == 1


def test_a_set_that_holds_the_source_is_never_replaced(call, source, out):
    call(source)
    inside = out / "source"
    shutil.copytree(source, inside)
    before = sorted(out.rglob("*"))
    code, _, err = call(inside, "--overwrite")
    assert code == 2 and "lies in --out" in err and err.count("\n") == 1
    assert sorted(out.rglob("*")) == before


def test_other_folder_is_never_overwritten(call, source, out):
    out.mkdir(parents=True)
    (out / "thesis.txt").write_text("mine")
    assert call(source, "--overwrite")[0] == 2
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]


def damage_header(source):
    (source / "100.hea").write_text("")


def remove_signal(source):
    (source / "100.dat").unlink()


def cut_signal(source):
    path = source / "100.dat"
    path.write_bytes(path.read_bytes()[:3000])


def remove_annotations(source):
    (source / "100.atr").unlink()


def keep_no_leads(source):
    (source / "100.hea").write_text("100 0 360 2160\n")


def keep_record_line(source):
    (source / "100.hea").write_text("100 2 360 2160\n")


def other_unit(source):
    path = source / "100.hea"
    path.write_text(path.read_text().replace("/mV", "/mmHg"))


def lose_sample(source):
    leads = wfdb.rdrecord(str(source / "100")).p_signal
    leads[7, 1] = np.nan
    wfdb.wrsamp(
        "100",
        FS,
        ["mV"] * 2,
        ["MLII", "V1"],
        p_signal=leads,
        fmt=["212"] * 2,
        write_dir=str(source),
    )


def cut_annotations(source):
    path = source / "100.atr"
    path.write_bytes(path.read_bytes()[:20])


def other_rate(source):
    path = source / "100.hea"
    path.write_text(path.read_text().replace(" 360 ", " 300 "))


DAMAGES = (
    damage_header, remove_signal, cut_signal, remove_annotations, keep_no_leads, keep_record_line,
    other_unit, lose_sample, cut_annotations, other_rate,
)  # fmt: skip


@pytest.mark.parametrize("lead", ["0(1024)/mV 12 0", "0(1024)", "0.0 12 1024 924 29760 0 I", ""])
def test_a_lead_without_a_gain_has_200_units_per_mv(call, source, out, lead):
    path = source / "100.hea"
    about, _, other, *_ = path.read_text().splitlines()
    path.write_text("\n".join([about, f"100.dat 212 {lead}", other]) + "\n")
    result = call(source)
    assert result.code == 0, result
    assert "mitdb: 1 records (no gain in the header: 200 units per mV are assumed)\n" in result.err
    assert described(out)["sources"][0]["uncalibrated"] == ["100"]
    digital = wfdb.rdrecord(str(source / "100"), physical=False).d_signal[:, 0]
    expected = resample_poly((digital - 1024 * bool(lead)) / 200, 25, 36, padtype="line")
    assert np.abs(signal(segment(out, 100, 0)) - expected).max() <= 0.5 / 1000 + 1e-9


@pytest.mark.parametrize("damage", DAMAGES)
def test_record_that_cannot_be_used_is_left_out_and_listed(call, source, out, damage):
    damage(source)
    code, _, err = call(source)
    assert code == 0
    about = described(out)
    (only,) = about["sources"]
    assert only["patient_of_record"] == {"205": 205}
    (left_out,) = only["left_out"]
    assert left_out["record"] == "100"
    assert f"1 left out: 1 × {left_out['reason']}, such as 100" in err
    assert str(source) not in json.dumps(about)
    assert [path.name for path in (out / "p00").iterdir()] == ["p00205"]


def test_record_named_that_cannot_be_used_is_an_error(call, source, out):
    cut_signal(source)
    call(source, "--patient-ids", "205,100").refused("patient 100 cannot be used", "such as 100")
    assert not list(out.parent.iterdir())
    assert call(source, "--patient-ids", "205").code == 0


def test_nothing_usable_leaves_nothing(call, source, out):
    for name in RECORDS:
        (source / f"{name}.dat").unlink()
    code, _, err = call(source)
    assert code == 2 and "no record can be used (2 left out: " in err
    assert not out.exists() and not list(out.parent.glob("*"))


def test_empty_folder_is_refused(call, tmp_path, out):
    code, _, err = call(tmp_path)
    assert code == 2 and "no .hea files" in err
    assert not out.exists()


def test_error_on_the_way_leaves_nothing_half_made(call, source, out, monkeypatch):
    call(source)
    before = sorted(out.parent.rglob("*"))
    real = convert.write_segment

    def full(folder, name, *rest):
        if name == "p00205_s01":
            raise OSError(28, "No space left on device", name)
        real(folder, name, *rest)

    monkeypatch.setattr(convert, "write_segment", full)
    code, _, err = call(source, "--overwrite")
    assert code == 2 and "No space left" in err
    assert sorted(out.parent.rglob("*")) == before
    shutil.rmtree(out)
    assert call(source)[0] == 2
    assert list(out.parent.iterdir()) == []


def test_real_record(call, ecg_data, tmp_path, out):
    for path in (ecg_data / "mitdb").glob("201.*"):
        shutil.copy(path, tmp_path)
    assert call(tmp_path)[0] == 0
    check_signal(out, tmp_path, 201)
    marks = wfdb.rdann(str(tmp_path / "201"), "atr")
    symbols = np.array(marks.symbol)
    beats = np.isin(symbols, list("NLRejAaJSVEQ/fF"))
    ends, codes, _, rhythm = icentia11k.read_annotations(segment(out, 201, 0))
    assert np.abs(ends - marks.sample[beats] * 250 / 360).max() <= 1
    expected = {"N": "normal", "j": "normal", "a": "pac", "A": "pac", "J": "pac", "V": "pvc",
                "F": "undefined"}  # fmt: skip
    assert names(codes, BEAT_CLASSES) == [expected[symbol] for symbol in symbols[beats]]
    zone, zones = "", []
    for symbol, note, beat in zip(symbols, marks.aux_note, beats, strict=True):
        zone = note.strip("\0") if symbol == "+" else zone
        if beat:
            zones.append({"(N": "normal", "(AFIB": "afib"}.get(zone, "noise"))
    assert names(rhythm, RHYTHM_CLASSES) == zones
    assert set(zones) == {"normal", "afib", "noise"}
