"""Other annotated databases in Icentia11k's layout, one or several in a set."""

import json
import shutil
from collections import Counter

import numpy as np
import pytest
import wfdb
from scipy.signal import resample_poly

from pretraining import convert, trainer
from pretraining.cohort import choose_segments, draw_patients, split_subjects
from pretraining.icentia11k import reader
from pretraining.icentia11k.index import open_index
from pretraining.tasks import Beat, Rhythm
from recordings.annotations import ALPHABETS, BEAT_CLASSES, RHYTHM_CLASSES
from tests.helpers import command, contents
from utils.cli import UserError
from utils.files import sha256

# (sample, symbol, rhythm mark); `~` marks noise and is no beat
MARKS = [
    (18, "+", "(N"), (77, "N", ""), (370, "L", ""), (500, "~", ""), (662, "A", ""),
    (940, "+", "(AFIB"), (946, "V", ""), (1231, "/", ""), (1515, "+", "(B"), (1520, "f", ""),
    (1800, "N", ""), (2000, "+", "(SBR"), (2159, "N", ""),
]  # fmt: skip
BEATS = ["normal", "normal", "pac", "pvc", "undefined", "undefined", "normal", "normal"]
RHYTHMS = ["normal", "normal", "normal", "afib", "afib", "noise", "noise", "normal"]
SOURCES = {"mitdb": (360, ("100", "201", "202")), "svdb": (128, ("800", "801"))}
HINT = "(no gain in the header: 200 units per mV are assumed)"


TIME = np.arange(2160) / 360
TWO_BEATS = [(77, "N", ""), (370, "N", "")]


def put_record(
    folder, name, fs=360, seed=0, signal=None, marks=MARKS, fmt="212", gain=200.0,
    baseline=(1024, 0),
):  # fmt: skip
    """Two leads, by default of 2,160 samples with offsets, and `put_marks`."""
    folder.mkdir(exist_ok=True)
    if signal is None:
        leads = np.sin(2 * np.pi * (1 + seed) * TIME) - 0.5, 0.4 * np.cos(2 * np.pi * 7 * TIME) + 1
        signal = np.stack(leads, 1)
    wfdb.wrsamp(
        name, fs, ["mV"] * 2, ["MLII", "V1"], p_signal=signal, fmt=[fmt] * 2,
        adc_gain=[gain] * 2, baseline=list(baseline), write_dir=str(folder),
    )  # fmt: skip
    put_marks(folder, name, marks)


def put_marks(folder, name, marks, annotator="atr", fs=None):
    (folder / f"{name}.{annotator}").unlink(missing_ok=True)
    places, symbols, notes = map(list, zip(*marks, strict=True))
    wfdb.wrann(name, annotator, np.array(places), symbols, aux_note=notes, fs=fs,
               write_dir=str(folder))  # fmt: skip


@pytest.fixture
def source(tmp_path):
    """Folder of two records of MIT-BIH."""
    for seed, name in enumerate(("100", "205")):
        put_record(tmp_path / "source", name, seed=seed)
    return tmp_path / "source"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "sets/out"


@pytest.fixture
def call(out):
    def call(folder, *flags, source="mitdb"):
        return run(out, "--source", source, "--from", folder, *flags)

    return call


def run(out, *flags):
    return command(convert.main, "--out", out, *flags)


def described(out):
    return json.loads((out / "dataset.json").read_text())


def segment(out, patient, lead):
    return out / f"p00/p{patient:05}/p{patient:05}_s{lead:02}"


def signal(path):
    """In mV."""
    return np.fromfile(f"{path}.dat", "<i2") / 1000


def check_constants(out, name):
    """Those of the set are of what was written."""
    written = np.concatenate([signal(path.with_suffix("")) for path in out.rglob("*.dat")])
    constants = reader.read_constants(out)
    assert constants.name == name and described(out)["samples"] == len(written)
    assert constants.mean == pytest.approx(written.mean(), rel=1e-9)
    assert constants.sd == pytest.approx(written.std(), rel=1e-9)


def check_beats(out, source, folder):
    """Every beat of each record, in each of its leads; returns how often each symbol was there."""
    alphabet, symbols_found = ALPHABETS[source], Counter()
    for path in sorted(folder.glob("*.atr")):
        marks = wfdb.rdann(str(path.with_suffix("")), "atr")
        fs = wfdb.rdheader(str(path.with_suffix(""))).fs
        beats = np.isin(marks.symbol, list(alphabet.beats))
        symbols = [symbol for symbol, beat in zip(marks.symbol, beats, strict=True) if beat]
        symbols_found.update(symbols)
        first, second = (segment(out, int(path.stem), lead) for lead in (0, 1))
        ends, codes, _, _ = reader.read_annotations(first)
        assert codes.tolist() == [reader.BEAT_CODES[alphabet.beats[s]] for s in symbols], path
        assert np.abs(ends - marks.sample[beats] * 250 / fs).max() <= 1, path
        assert first.with_suffix(".atr").read_bytes() == second.with_suffix(".atr").read_bytes()
    return symbols_found


def test_one_patient_per_record_one_segment_per_lead(call, source, out):
    result = call(source)
    assert result.code == 0 and "2 patients, 4 segments" in result.out
    records = reader.find_records(out)
    for patient, paths in records.items():
        assert [path.name for path in paths] == [f"p00{patient}_s00", f"p00{patient}_s01"]
        leads = wfdb.rdrecord(str(source / str(patient))).p_signal.T
        for path, lead in zip(paths, leads, strict=True):
            expected = resample_poly(lead, 25, 36, padtype="line")
            assert np.abs(signal(path) - expected).max() <= 0.5 / 1000 + 1e-9
            assert signal(path)[[0, -1]] == pytest.approx(lead[[0, -1]], abs=0.1)  # no step
            assert reader.read_header(path) == (1500, 1000.0, 0)
            ends, codes, _, rhythm = reader.read_annotations(path)
            places = [place for place, symbol, _ in MARKS if symbol not in "+~"]
            assert np.abs(ends - np.array(places) * 250 / 360).max() <= 1 and ends[-1] < 1500
            assert [BEAT_CLASSES[code] for code in codes] == BEATS
            assert [RHYTHM_CLASSES[code] for code in rhythm] == RHYTHMS
    check_constants(out, "mitdb")
    (about,) = described(out)["sources"]
    assert about["uncalibrated"] == []
    assert about["patient_of_record"] == {"100": 100, "205": 205}
    assert about["source_sha256"] == {path.name: sha256(path) for path in source.iterdir()}
    assert len(about["source_sha256"]) == 6 and about["licence"].startswith("ODC-By 1.0, https")
    assert str(source) not in json.dumps(described(out))


def test_records_of_other_names_and_at_250_hz(call, tmp_path, out):
    for name in ("b12", "a7"):
        put_record(tmp_path, name, fs=250)
    assert call(tmp_path, source="wfdb").code == 0
    assert described(out)["sources"][0]["patient_of_record"] == {"a7": 0, "b12": 1}
    original = wfdb.rdrecord(str(tmp_path / "b12")).p_signal[:, 0]
    np.testing.assert_allclose(signal(segment(out, 1, 0)), original, atol=1e-9)
    assert reader.read_annotations(segment(out, 1, 0))[0][:3].tolist() == [77, 370, 662]


# Rhythms of a record in which the last two are not Icentia11k's
RHYTHM_MARKS = {3: "(N", 720: "(AFIB", 1296: "(VFL", 1584: "(NSR", 1872: "(J"}


@pytest.mark.parametrize("annotator", ["atr", "qrs", "ecg"])
def test_rhythms_without_beats_are_kept(call, tmp_path, out, annotator):
    # As of AFDB: rhythm marks in .atr, beats in another file
    put_record(tmp_path, "04015", 250, marks=[(at, "+", k) for at, k in RHYTHM_MARKS.items()])
    beats = [(at, "N", "") for at in range(100, 2160, 50)]
    put_marks(tmp_path, "04015", beats, annotator if annotator != "atr" else "qrs")
    flags = ["--annotator", annotator] if annotator != "atr" else []
    result = call(tmp_path, *flags, source="wfdb")
    assert result.code == 0 and "other rhythms count as noise: 1 × (VFL, 1 × (J\n" in result.err
    said = "1 × rhythms but no beats (are beats in another file? see --annotator), such as"
    assert (said in result.err) == (annotator == "atr")
    index = open_index(out)
    starts = np.array([100, 800, 1310, 1600, 1900])
    labels = Rhythm(100).label_frames(index, np.zeros(5, np.int64), starts)
    assert [RHYTHM_CLASSES[k] for k in labels] == ["normal", "afib", "noise", "normal", "noise"]
    assert index.segments["beats"].tolist() == [0 if annotator == "atr" else 42] * 2
    if annotator == "atr":
        assert index.annotations(0)["rhythm_ends"].tolist() == [3, 720, 1296, 1584, 1872, 2160]
        with pytest.raises(UserError, match="2 × rhythm marks but no beats"):
            choose_segments(index, None, 100, Beat.annotated)
    assert choose_segments(index, None, 100, Rhythm.annotated)[1] == []
    shutil.rmtree(out)
    call(tmp_path, "--annotator", "xyz", source="wfdb").refused("no .xyz")


def test_what_may_not_be_replaced(call, source, out):
    out.mkdir(parents=True)
    (out / "thesis.txt").write_text("mine")
    call(source, "--overwrite").refused(f"{out} exists")
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]
    shutil.rmtree(out)
    assert call(source).code == 0
    before = contents(out)
    (source / "205.hea").unlink()
    call(source).refused(f"{out} exists")
    assert contents(out) == before
    inside = shutil.copytree(source, out / "source")
    call(inside, "--overwrite").refused("lies in --out")
    shutil.rmtree(inside)
    assert contents(out) == before
    assert call(source, "--overwrite").code == 0
    assert described(out)["patients"] == 1


def damage(source, kind):
    path = source / ("100.hea" if kind == "rate" else "100.dat")
    if kind == "no signal":
        path.unlink()
    elif kind == "cut":
        path.write_bytes(path.read_bytes()[:3000])
    elif kind == "rate":
        path.write_text(path.read_text().replace(" 360 ", " 300 "))
    else:
        leads = wfdb.rdrecord(str(source / "100")).p_signal
        leads[7:207, 1] = np.nan
        put_record(source, "100", signal=leads)


@pytest.mark.parametrize("kind", ["no signal", "cut", "rate", "missing sample"])
def test_record_that_cannot_be_used_is_left_out_and_listed(call, source, out, kind):
    damage(source, kind)
    result = call(source)
    assert result.code == 0
    (about,) = described(out)["sources"]
    assert about["patient_of_record"] == {"205": 205}
    (left_out,) = about["left_out"]
    assert left_out["record"] == "100"
    assert f"1 left out: 1 × {left_out['reason']}, such as 100" in result.err
    assert str(source) not in json.dumps(described(out))
    assert [path.name for path in (out / "p00").iterdir()] == ["p00205"]


def test_nothing_is_half_made(call, source, out, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    call(tmp_path / "empty").refused("no records of mitdb")
    damage(source, "cut")
    call(source, "--patient-ids", "205,100").refused("patient 100 cannot be used", "such as 100")
    assert not list(out.parent.iterdir())
    put_record(source, "100")
    assert call(source).code == 0
    before, original = contents(out.parent), convert.write_segment

    def full(folder, name, *rest):
        if name == "p00205_s01":
            raise OSError(28, "No space left on device", name)
        original(folder, name, *rest)

    monkeypatch.setattr(convert, "write_segment", full)
    call(source, "--overwrite").refused("No space left")
    assert contents(out.parent) == before


# Several sources


@pytest.fixture
def sources(tmp_path):
    """Flags for both sources; of the second, no gain is stated."""
    for name, (fs, records) in SOURCES.items():
        for seed, record in enumerate(records):
            put_record(tmp_path / name, record, fs, seed)
    for path in (tmp_path / "svdb").glob("*.hea"):
        put_marks(path.parent, path.stem, zip([50, 130, 300, 500], "NSVf", [""] * 4, strict=True))
        path.write_text(path.read_text().replace("200.0(", "0("))
    return {name: ["--source", name, "--from", tmp_path / name] for name in SOURCES}


def test_together_or_one_after_the_other(sources, tmp_path):
    out, later = tmp_path / "sets/out", tmp_path / "sets/later"
    result = run(out, *sources["mitdb"], *sources["svdb"])
    assert result.code == 0 and "5 patients, 10 segments" in result.out, result
    assert f"2 uncalibrated signals {HINT}, such as 800" in result.err
    assert run(later, *sources["mitdb"]).code == 0
    (later / "annotation_index").mkdir()
    (later / "annotation_index/old").touch()
    appended = run(later, *sources["svdb"], "--append")
    assert appended.code == 0 and appended.out == result.out.replace("out", "later")
    assert contents(later) == contents(out)
    assert list(reader.find_records(out)) == [100, 201, 202, 800, 801]
    check_constants(out, "mitdb+svdb")
    about = described(out)
    assert reader.read_constants(out).same_subject == {202: 201}
    assert (about["patients"], about["subjects"]) == (5, 4)
    assert [source["uncalibrated"] for source in about["sources"]] == [[], ["800", "801"]]
    for source, count in zip(about["sources"], (8 * 3, 4 * 2), strict=True):
        assert source["licence"].startswith("ODC-By 1.0, https") and source["source_sha256"]
        name = source["name"]
        assert check_beats(out, name, tmp_path / name).total() == count
    assert str(tmp_path) not in json.dumps(about)


def test_what_cannot_be_joined_leaves_all_as_it_was(sources, tmp_path):
    out = tmp_path / "sets/out"
    same = ["--source", "wfdb", "--from", tmp_path / "mitdb"]
    words = ["record 100 of wfdb, or another patient 100, is in the set already", "--patient-ids"]
    run(out, *sources["mitdb"], *same).refused(*words)
    run(out, *sources["svdb"], "--append").refused("no converted set that --append can add to")
    run(out, *sources["mitdb"], *same, "--patient-ids", 7).refused("no records of mitdb")
    assert not out.parent.exists()
    assert run(out, *sources["mitdb"]).code == 0
    before = contents(out.parent)
    run(out, *same, "--append").refused(*words)
    svdb = [*sources["svdb"], "--append"]
    run(out, *svdb, "--patient-ids", 100).refused("svdb, or none of --patient-ids")
    (tmp_path / "svdb/800.dat").unlink()
    run(out, *svdb, "--patient-ids", "800,801").refused("patient 800 cannot")
    run(out, *svdb, "--overwrite").refused("not allowed with argument --append")
    run(out, *sources["svdb"], "--source", "mitdb").refused("2 --source but 1 --from")
    assert contents(out.parent) == before


@pytest.fixture
def joined(sources, tmp_path):
    """A set in which 100 and 800 are one subject, as a file says."""
    file, out = tmp_path / "subjects.csv", tmp_path / "sets/out"
    file.write_text("patient,subject\n800,Ann\n201,Bob\n100,Ann\n")
    assert run(out, *sources["mitdb"], "--subjects", file).code == 2  # there is no 800 yet
    assert run(out, *sources["mitdb"], *sources["svdb"], "--subjects", file).code == 0
    return out


def test_subjects_of_a_file_are_added_to_what_is_known(joined, tmp_path):
    assert reader.read_constants(joined).same_subject == {202: 201, 800: 100}
    assert described(joined)["subjects"] == 3
    put_record(tmp_path, "900")
    file = tmp_path / "more.csv"
    file.write_text("202,x\n900,x\n\n")  # 202 is 201 already
    new = ["--source", "wfdb", "--from", tmp_path, "--append", "--subjects", file]
    assert run(joined, *new).code == 0
    constants = reader.read_constants(joined)
    assert constants.same_subject == {202: 201, 800: 100, 900: 201}
    assert described(joined)["subjects"] == 3 and constants.name == "mitdb+svdb+wfdb"


def test_offsets_of_leads_do_not_scale_the_signal(call, tmp_path, out):
    for number, offset in enumerate((5, -3, 9)):  # mV, as in QTDB
        signal = np.sin(TIME * 9)[:, None] + [offset, -offset - 2]
        put_record(tmp_path, f"r{number}", 360, 0, signal, TWO_BEATS, "16", baseline=(0, 0))
    result = call(tmp_path, source="wfdb")
    assert result.code == 0
    assert "wfdb: offsets of leads (6.94 mV) exceed the signal (0.70 mV); their" in result.err
    assert "see also --standardise frame" in result.err
    constants, index = reader.read_constants(out), open_index(out)
    assert constants.sd == pytest.approx(0.7, abs=0.02)
    for number in range(6):
        header = index.header(number)
        units = np.fromfile(f"{index.record_path(number)}.dat", "<i2") - header.baseline
        normal = (units / header.gain - constants.mean) / constants.sd
        assert abs(normal.mean()) < 0.1 and normal.std() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("own_rate", [False, True])
def test_marks_count_in_frames_or_at_a_rate_of_their_own(call, tmp_path, out, own_rate):
    put_record(tmp_path, "r")
    put_marks(tmp_path, "r", [(30, "N", ""), (300, "N", "")], fs=180 if own_rate else None)
    if not own_rate:  # two samples of each lead in a frame, beside a companion
        header = tmp_path / "r.hea"
        text = header.read_text().replace(" 360 2160", " 180 1080 0:0:0 2014-05-08")
        text = text.replace(" 212 ", " 212x2 ")  # and a date that only our own reader takes
        header.write_text(text.replace("1024)/mV", "1024)/mmHg"))
    result = call(tmp_path, source="wfdb")
    assert result.code == 0 and ("mmHg" in result.err) == (not own_rate), result
    assert reader.read_annotations(segment(out, 0, 0))[0].tolist() == [42, 417]


def test_an_offset_beyond_the_range_does_not_clip(call, tmp_path, out):
    wave = np.sin(np.arange(2160) / 40)
    leads = np.stack([wave + 250, wave - 1], 1)
    put_record(tmp_path, "r", 250, 0, leads, TWO_BEATS, "24", 1000.0, (0, 0))
    result = call(tmp_path, source="wfdb")
    assert "1 × offset beyond ±16 mV removed, such as r" in result.err
    for lead, offset in enumerate((np.median(wave), 1)):
        np.testing.assert_allclose(signal(segment(out, 0, lead)) + offset, wave, atol=0.002)


@pytest.mark.parametrize(("names", "comment", "same", "with_mitdb"), [
    ("data_84_1 data_84_2 data_84_10 data_9_1 data_9_2", "", {1: 0, 2: 0, 4: 3}, {}),
    ("I01 I02 I03", "# patient 1", {1: 0, 2: 0}, {}),
    ("I01 I02 I03", "# patient has a pacemaker", {}, {}),
    ("rec_1 rec_2 bw", "#Subject_ID: X7\n# subject of 3 studies", {1: 0, 2: 0}, {}),
    ("rec_1 rec_2 bw em a100", "", {}, {}),
    ("2020_1 2020_2 ecg12_1 ecg12_2 1e05 1e06 12345e06", "", {}, {}),
    ("118e06 118e_6 119e24", "", {1: 0}, {118: 0, 1: 0, 119: 2}),
    ("sel118 sele0104 x y z", "", {}, {118: 0}),
])  # fmt: skip
def test_subjects_that_records_state(tmp_path, out, names, comment, same, with_mitdb):
    for name in names.split():
        put_record(tmp_path, name)
        with (tmp_path / f"{name}.hea").open("a") as file:
            file.write(comment)
    flags = ["--source", "wfdb", "--from", tmp_path]
    assert run(out, *flags).code == 0
    assert reader.read_constants(out).same_subject == same
    assert described(out)["subjects"] == len(names.split()) - len(same)
    if with_mitdb:
        for name in ("118", "119"):
            put_record(tmp_path / "mitdb", name)
        flags = ["--source", "mitdb", "--from", tmp_path / "mitdb", "--append"]
        assert run(out, *flags).code == 0
        assert reader.read_constants(out).same_subject == with_mitdb


def test_records_without_numbers_are_counted_on(tmp_path, out):
    flags = []
    for part, names in (("I", ("data_1_1", "data_2_1")), ("II", ("data_1_2", "data_10_1"))):
        flags += ["--source", "wfdb", "--from", tmp_path / part]
        for name in names:
            put_record(tmp_path / part, name)
    assert run(out, *flags).code == 0
    assert described(out)["sources"][1]["patient_of_record"] == {"data_10_1": 2, "data_1_2": 3}
    assert reader.read_constants(out).same_subject == {3: 0}
    run(out, *flags[:4], "--append").refused("record data_1_1 of wfdb, or another patient 4, is in")


def test_subjects_of_records_that_are_left_out(sources, tmp_path):
    file, out = tmp_path / "subjects.csv", tmp_path / "sets/out"
    file.write_text("100,Ann\n201,Ann\n202,Ann\n")
    (tmp_path / "mitdb/100.dat").unlink()
    assert run(out, *sources["mitdb"], "--subjects", file).code == 0
    assert reader.read_constants(out).same_subject == {202: 201}
    flags = ["--patient-ids", "100,202", "--overwrite", "--subjects", file]
    run(out, *sources["mitdb"], *flags).refused("patient 100 cannot be used")


@pytest.mark.parametrize(
    "content", [b"100\n", b"100,a,b\n", b"777,a\n", b"100;a\n", b"\xff\xfe\n", b"100,\0\n77"]
)
def test_subjects_that_cannot_be_used(sources, tmp_path, content):
    file = tmp_path / "subjects.csv"
    file.write_bytes(content)
    run(tmp_path / "sets/out", *sources["mitdb"], "--subjects", file).refused(str(file))
    assert not (tmp_path / "sets").exists()


def test_patients_that_validate_by_number(joined, tmp_path):
    job = tmp_path / "job"
    start = ["--train", joined, "--job-dir", job, "--task", "beat", "--frame-size", 128, "--stages",
             1, "--batch-size", 4, "--epochs", 1, "--steps-per-epoch", 1, "--device", "cpu",
             "--overwrite", "--val-patient-ids"]  # fmt: skip
    for flags, expected in (
        (["100,202"], [[801], [100, 201, 202, 800]]),
        (["801", "--patient-ids", "100,201"], [[100, 201], [801]]),
        (["100", "--patient-ids", "800-801"], [[801], [100, 800]]),
    ):
        assert command(trainer.main, *start, *flags, "--val-size", 4).code == 0
        about = json.loads((job / "manifest.json").read_text())
        parts = [list(map(int, about[part]["records"])) for part in ("train", "validation")]
        assert parts == expected
    before = contents(job)
    file = tmp_path / "val.npz"
    file.touch()
    for flags, words in (
        (["100,801", "--patient-ids", "801"], "801 is among --patient-ids"),
        (["801", "--val-patients", 1], "--val-patient-ids says who"),
        (["801", "--val-file", file], "--val-file says who"),
        (["802"], "patient 802 is not in"),
        (["100,201,801"], "--val-patient-ids takes all of 5 usable patients"),
    ):
        command(trainer.main, *start, *flags).refused(words)
    assert contents(job) == before


# Real recordings


def test_whole_databases(ecg_data, tmp_path):
    out = tmp_path / "out"
    flags = [flag for name in SOURCES for flag in ("--source", name, "--from", ecg_data / name)]
    result = run(out, *flags)
    assert result.code == 0, result
    assert result.out == f"{out}: 126 patients, 252 segments, mean -0.1065 mV, sd 0.4538 mV\n"
    assert f"37 uncalibrated signals {HINT}, such as 820" in result.err
    about, numbers = described(out), list(reader.find_records(out))
    assert (about["patients"], about["segments"], about["subjects"]) == (126, 252, 125)
    assert [len(source["uncalibrated"]) for source in about["sources"]] == [0, 37]
    assert len(numbers) == 126 and not any(source["left_out"] for source in about["sources"])
    check_beats(out, "mitdb", ecg_data / "mitdb")
    symbols = check_beats(out, "svdb", ecg_data / "svdb")
    assert (symbols.total(), symbols["S"], symbols["V"]) == (184_583, 12_188, 9_943)
    cohort, sides = {patient: np.zeros(1, np.int64) for patient in numbers}, set()
    for seed in range(200):
        same = reader.read_constants(out).same_subject
        _, val = split_subjects(cohort, draw_patients(cohort, 0.1, seed, same), same, "")
        sides.add((201 in val, 202 in val))
    assert sides == {(True, True), (False, False)}
    shutil.rmtree(out)
