"""Several databases converted into one set: numbers, files, subjects, and who validates."""

import json
import shutil
from collections import Counter

import numpy as np
import pytest
import wfdb

from pretraining import convert, trainer
from pretraining.cohort import draw_patients, split_subjects
from pretraining.icentia11k import reader as icentia11k
from recordings.annotations import ALPHABETS
from tests.helpers import command, contents
from tests.test_convert import put_record, segment, signal

SOURCES = {"mitdb": (360, ("100", "201", "202")), "svdb": (128, ("800", "801"))}
SVDB_BEATS, SVDB_S, SVDB_V = 184_583, 12_188, 9_943  # symbols in its files


@pytest.fixture
def sources(tmp_path):
    """Flags for both sources."""
    for name, (fs, records) in SOURCES.items():
        (tmp_path / name).mkdir()
        for seed, record in enumerate(records):
            put_record(tmp_path / name, record, fs, seed)
            if name == "svdb":
                wfdb.wrann(
                    record, "atr", np.array([50, 130, 300, 500]), list("NSVf"),
                    write_dir=str(tmp_path / name),
                )  # fmt: skip
                path = tmp_path / name / f"{record}.hea"
                path.write_text(path.read_text().replace("200.0(", "0("))
    return {name: ["--source", name, "--from", tmp_path / name] for name in SOURCES}


def run(out, *flags):
    return command(convert.main, "--out", out, *flags)


def described(out):
    return json.loads((out / "dataset.json").read_text())


def patients(out):
    return list(icentia11k.find_records(out)[0])


def check_beats(out, source, folder):
    """Every beat of each record, in each of its leads; returns how often each symbol was there."""
    alphabet, found = ALPHABETS[source], Counter()
    for path in sorted(folder.glob("*.atr")):
        marks = wfdb.rdann(str(path.with_suffix("")), "atr")
        fs = wfdb.rdheader(str(path.with_suffix(""))).fs
        beats = np.isin(marks.symbol, list(alphabet.beats))
        symbols = [symbol for symbol, beat in zip(marks.symbol, beats, strict=True) if beat]
        found.update(symbols)
        first, second = (segment(out, int(path.stem), lead) for lead in (0, 1))
        ends, codes, _, _ = icentia11k.read_annotations(first)
        expected = [icentia11k.BEAT_CODES[alphabet.beats[symbol]] for symbol in symbols]
        assert codes.tolist() == expected, path
        assert np.abs(ends - marks.sample[beats] * 250 / fs).max() <= 1, path
        assert first.with_suffix(".atr").read_bytes() == second.with_suffix(".atr").read_bytes()
    return found


def test_together_or_one_after_the_other(sources, tmp_path):
    out, later = tmp_path / "sets/out", tmp_path / "sets/later"
    result = run(out, *sources["mitdb"], *sources["svdb"])
    assert result.code == 0 and "5 patients, 10 segments" in result.out, result
    hint = "svdb: 2 records (no gain in the header: 200 units per mV are assumed)\n"
    assert result.err.endswith(hint)
    assert run(later, *sources["mitdb"]).code == 0
    (later / "annotation_index").mkdir()
    (later / "annotation_index/old").touch()
    appended = run(later, *sources["svdb"], "--append")
    assert appended.code == 0 and appended.err.endswith(hint)
    assert appended.out == result.out.replace("out", "later")
    assert contents(later) == contents(out)
    assert patients(out) == [100, 201, 202, 800, 801]

    about = described(out)
    records, _ = icentia11k.find_records(out)
    written = np.concatenate([signal(path) for paths in records.values() for path in paths])
    constants = icentia11k.read_constants(out)
    assert constants.name == "mitdb+svdb" and about["samples"] == len(written)
    assert constants.mean == pytest.approx(written.mean(), rel=1e-9)
    assert constants.sd == pytest.approx(written.std(), rel=1e-9)
    assert constants.same_subject == {202: 201}
    assert (about["patients"], about["subjects"]) == (5, 4)
    assert [source["name"] for source in about["sources"]] == list(SOURCES)
    assert [source["uncalibrated"] for source in about["sources"]] == [[], ["800", "801"]]
    for source in about["sources"]:
        assert source["licence"].startswith("ODC-By 1.0, https") and source["source_sha256"]
        found = check_beats(out, source["name"], tmp_path / source["name"])
        assert found.total() == (4 * 2 if source["name"] == "svdb" else 8 * 3)
    assert str(tmp_path) not in json.dumps(about)


def test_what_cannot_be_joined_leaves_all_as_it_was(sources, tmp_path):
    out = tmp_path / "sets/out"
    same = ["--source", "wfdb", "--from", tmp_path / "mitdb"]
    words = ["patient 100 of wfdb is also in mitdb", "--patient-ids"]
    run(out, *sources["mitdb"], *same).refused(*words)
    run(out, *sources["svdb"], "--append").refused("no set that --append can add to")
    run(out, *sources["mitdb"], *same, "--patient-ids", 7).refused("patient 7 is not in")
    assert not out.parent.exists()
    assert run(out, *sources["mitdb"]).code == 0
    before = contents(out.parent)
    run(out, *same, "--append").refused(*words)
    run(out, *sources["svdb"]).refused("exists; choose another --out")
    run(out, *sources["svdb"], "--append", "--patient-ids", 100).refused(
        "svdb has none of the patients of --patient-ids"
    )
    (tmp_path / "svdb/800.dat").unlink()
    run(out, *sources["svdb"], "--append", "--patient-ids", "800,801").refused("patient 800 cannot")
    for flags, word in (
        ([*sources["svdb"], "--append", "--overwrite"], "not with --overwrite"),
        ([*sources["svdb"], "--source", "mitdb"], "2 --source but 1 --from"),
        ([*sources["svdb"], "--source", "torrent", "--from", tmp_path], "converted by itself"),
    ):
        run(out, *flags).refused(word)
    assert contents(out.parent) == before


@pytest.fixture
def joined(sources, tmp_path):
    """A set in which 100 and 800 are one subject, as a file says."""
    file, out = tmp_path / "subjects.csv", tmp_path / "sets/out"
    file.write_text("patient,subject\n800,Ann\n201,Bob\n100,Ann\n")
    assert run(out, *sources["mitdb"], "--subjects", file).code == 2  # there is no 800 yet
    assert run(out, *sources["mitdb"], *sources["svdb"], "--subjects", file).code == 0
    return out


def test_records_of_one_subject_stay_together(joined, sources, tmp_path):
    constants = icentia11k.read_constants(joined)
    assert constants.same_subject == {202: 201, 800: 100}
    assert described(joined)["subjects"] == 3
    cohort = {patient: np.zeros(1, np.int64) for patient in patients(joined)}
    sides = set()
    for seed in range(40):
        drawn = draw_patients(cohort, 2, seed)
        train, val = split_subjects(cohort, drawn, constants.same_subject, "")
        for pair in ((201, 202), (100, 800)):
            assert (pair[0] in val) == (pair[1] in val) != (pair[1] in train)
            sides.add((pair, pair[0] in val))
    assert len(sides) == 4


def test_what_a_file_says_is_added_to_what_is_known(joined, sources, tmp_path):
    put_record(tmp_path, "900")
    file = tmp_path / "more.csv"
    file.write_text("202,x\n900,x\n\n")  # 202 is 201 already
    new = ["--source", "wfdb", "--from", tmp_path, "--append", "--subjects", file]
    assert run(joined, *new).code == 0
    constants = icentia11k.read_constants(joined)
    assert constants.same_subject == {202: 201, 800: 100, 900: 201}
    assert described(joined)["subjects"] == 3 and constants.name == "mitdb+svdb+wfdb"


@pytest.mark.parametrize(
    "content", [b"100\n", b"100,a,b\n", b"777,a\n", b"100;a\n", b"\xff\xfe\n", b"100,\0\n77"]
)
def test_subjects_that_cannot_be_used(sources, tmp_path, content):
    file = tmp_path / "subjects.csv"
    file.write_bytes(content)
    run(tmp_path / "sets/out", *sources["mitdb"], "--subjects", file).refused(str(file))
    assert not list((tmp_path / "sets").iterdir())


def manifest(tmp_path, out, *flags):
    small = ["--task", "beat", "--stages", 1, "--frame-size", 128, "--batch-size", 4, "--epochs", 1,
             "--steps-per-epoch", 1, "--val-size", 4, "--device", "cpu"]  # fmt: skip
    job = tmp_path / "job"
    result = command(trainer.main, "--train", out, "--job-dir", job, *small, *flags, "--overwrite")
    assert result.code == 0, result
    about = json.loads((job / "manifest.json").read_text())
    return [list(map(int, about[part]["records"])) for part in ("train", "validation")]


def test_patients_that_validate_by_number(joined, tmp_path):
    def parts(*flags):
        return manifest(tmp_path, joined, *flags)

    assert parts("--val-patient-ids", 801) == [[100, 201, 202, 800], [801]]
    assert parts("--val-patient-ids", "100,202") == [[801], [100, 201, 202, 800]]
    assert parts("--val-patient-ids", "801", "--patient-ids", "100,201") == [[100, 201], [801]]
    assert parts("--val-patient-ids", "100", "--patient-ids", "800-801") == [[801], [100, 800]]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--val-patient-ids", "100,801", "--patient-ids", "801"], "801 is among --patient-ids"),
        (["--val-patient-ids", "801", "--val-patients", 1], "--val-patient-ids says who"),
        (["--val-patient-ids", "801", "--val-file", "FILE"], "--val-file says who"),
        (["--val-patient-ids", "802"], "patient 802 is not in"),
        (["--val-patient-ids", "100,201,801"], "--val-patient-ids takes all of 5 usable patients"),
    ],
)
def test_patients_that_cannot_validate(joined, tmp_path, flags, words):
    file = tmp_path / "val.npz"
    file.touch()
    flags = [file if flag == "FILE" else flag for flag in flags]
    start = ["--train", joined, "--job-dir", tmp_path / "job", "--task", "beat", "--device", "cpu"]
    command(trainer.main, *start, "--frame-size", 128, *flags).refused(words)
    assert not (tmp_path / "job").exists()


def test_whole_databases(ecg_data, tmp_path):
    out = tmp_path / "out"
    folders = {name: ecg_data / name for name in SOURCES}
    flags = [flag for name in SOURCES for flag in ("--source", name, "--from", folders[name])]
    result = run(out, *flags)
    assert result.code == 0, result
    assert result.out == (f"{out}: 126 patients, 252 segments, mean -0.1065 mV, sd 0.4538 mV\n")
    assert result.err.endswith(
        "svdb: 37 records (no gain in the header: 200 units per mV are assumed)\n"
    )
    about, numbers = described(out), patients(out)
    assert (about["patients"], about["segments"], about["subjects"]) == (126, 252, 125)
    assert [len(source["uncalibrated"]) for source in about["sources"]] == [0, 37]
    assert len(numbers) == 126 and not any(source["left_out"] for source in about["sources"])
    check_beats(out, "mitdb", folders["mitdb"])
    found = check_beats(out, "svdb", folders["svdb"])
    assert (found.total(), found["S"], found["V"]) == (SVDB_BEATS, SVDB_S, SVDB_V)

    constants = icentia11k.read_constants(out)
    cohort = {patient: np.zeros(1, np.int64) for patient in numbers}
    sides = {
        tuple(patient in val for patient in (201, 202))
        for seed in range(200)
        for drawn in [draw_patients(cohort, 0.1, seed)]
        for _, val in [split_subjects(cohort, drawn, constants.same_subject, "")]
    }
    assert sides == {(True, True), (False, False)}
    shutil.rmtree(out)
