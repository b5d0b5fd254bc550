"""The downloader, against a server that fails: whatever it does, only right files are kept."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from types import SimpleNamespace

import pytest

from finetuning.datasets import challenge17
from pretraining import wfdb_source
from pretraining.icentia11k import reader as icentia11k
from recordings import download, downloading
from recordings.fetching import Patience
from recordings.synthetic_cohort import write_challenge17
from tests.faulty_server import ANSWERS, Server, sums
from tests.helpers import ROOT, command, contents, leftover

HASTY = Patience(attempts=3, pause=0.01, timeout=0.1)
LIST, RECORD = downloading.LIST, downloading.RECORD
BAD = "p00/p00001/p00001_s00.dat"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def cohort(patients=3) -> dict[str, bytes]:
    names = [f"p00/p{p:05d}/p{p:05d}_s00.{suffix}" for p in range(patients) for suffix in SUFFIXES]
    return {name: f"all that {name} holds\n".encode() for name in names}


SUFFIXES = ("atr", "dat", "hea")
FILES = cohort()
OTHERS = {"index.html": b"", "RECORDS": b"p00", "p00/p00000/p00000_s00.png": b"no"}


def run(server, out, dataset="icentia11k", patience=HASTY, **settings):
    settings = {"base_url": server.url, "workers": 4, **settings}
    return command(lambda: downloading.download(dataset, out, patience=patience, **settings))


def loaded(out) -> dict[str, bytes]:
    """All files in `out`, hidden ones too, but for the list and the record."""
    found = contents(out)
    assert {found.pop(name, b"") for name in (LIST, RECORD)}
    return found


# Each way to fail, and what is said of a file that meets nothing else
REASONS = {
    "dropped": "connection broke off", "truncated": "connection broke off",
    "unmeasured": "wrong checksum", "chunked": "connection broke off", "wrong": "wrong checksum",
    "empty": "wrong checksum", "longer": "wrong checksum", "page": "wrong checksum",
    "silent": "no answer in time", "stalled": "no answer in time",
    "dripping": "slower than 1,024 bytes a second", "closed": "no connection or no answer",
    "endless": "longer than 21,971,540 bytes", "circling": "redirected without end",
    "404": "HTTP 404", "429": "HTTP 429", "500": "HTTP 500", "503": "HTTP 503",
}  # fmt: skip


def test_every_fault_is_tried():
    assert set(REASONS) == set(ANSWERS) - {"whole", "moved"}


@pytest.mark.parametrize("kind", REASONS)
def test_a_fault(tmp_path, kind):
    """One file is never to be had, all others, and the list, at the second attempt."""

    def fault(name, times):
        first = times == 0 and kind != "404" and (name, kind) != (LIST, "endless")
        return kind if name == BAD or first else "whole"

    with Server(FILES | OTHERS, fault, delay=0.2) as server:
        run(server, tmp_path).refused(BAD, f"1 × {REASONS[kind]},", "the same command continues")
        asked = server.asked()
        if kind != "circling":
            assert asked.count(BAD) == (1 if kind == "404" else HASTY.attempts)
        assert loaded(tmp_path) == {name: FILES[name] for name in FILES if name != BAD}
        server.fault = lambda name, times: "whole"
        result = run(server, tmp_path)
        assert result.code == 0 and "9 files, all whole; 1 loaded now" in result.out
        assert server.asked() == [BAD] and loaded(tmp_path) == FILES
        assert run(server, tmp_path).code == 0 and not server.asked()


def test_redirects_are_followed(tmp_path):
    with Server(FILES, lambda name, times: "moved") as server:
        assert run(server, tmp_path).code == 0
    assert loaded(tmp_path) == FILES


def test_what_is_said_before(tmp_path):
    with Server(FILES) as server:
        result = run(server, tmp_path)
    expected = "9 files, of which 0 are whole and 0 to be checked in"
    assert expected in result.out and "about 6.42 MB to load" in result.out
    assert not result.err


def test_only_what_changed_is_loaded_again(tmp_path):
    with Server(FILES) as server:
        run(server, tmp_path)
        server.asked()
        changed, touched, gone, half = sorted(FILES)[:4]
        (tmp_path / changed).write_bytes(FILES[changed][::-1])
        os.utime(tmp_path / touched, (0, 0))
        (tmp_path / gone).unlink()
        (tmp_path / half).unlink()
        leftover(tmp_path / half).write_bytes(b"x" * 999)
        result = run(server, tmp_path)
        assert "5 are whole and 2 to be checked" in result.out
        assert server.asked() == [changed, gone, half] and loaded(tmp_path) == FILES
        assert "9 are whole and 0 to be checked" in run(server, tmp_path).out
        (tmp_path / RECORD).unlink()
        assert "0 are whole and 9 to be checked" in run(server, tmp_path).out
        assert not server.asked() and loaded(tmp_path) == FILES


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_by_a_signal(tmp_path, number, code):
    """While a server is silent; what was whole is not asked for again."""
    slow = sorted(FILES)[5:]

    def fault(name, times):
        return "silent" if name in slow else "whole"

    with Server(FILES, fault, delay=20) as server:
        flags = ["icentia11k", "--out", tmp_path, "--base-url", server.url, "--workers", "2"]
        process = subprocess.Popen(
            [sys.executable, "-m", "recordings.download", *map(str, flags)],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            # A shell has its background jobs ignore Ctrl-C, and what they start, too.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip
        record, deadline = tmp_path / RECORD, time.monotonic() + 20
        while not record.exists() or len(record.read_text().splitlines()) < 5:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.02)
        start = time.monotonic()
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
        assert process.returncode == code and time.monotonic() - start < 5, (out, err)
        assert b"Traceback" not in err
        server.asked()
        server.fault = lambda name, times: "whole"
        assert run(server, tmp_path).code == 0
        assert server.asked() == slow and loaded(tmp_path) == FILES


@pytest.mark.parametrize(
    "name",
    [
        "../p00000_s00.dat", "p00/../../p00000_s00.dat", "/tmp/x.dat", "C:/x.dat", "C:x.dat",
        "p00\\p00000_s00.dat", "..\\x.dat", "./x.dat", "p00//x.dat", "p00/", "..", "x\0.dat",
        "x\x1b[2J.dat",
    ],
)  # fmt: skip
def test_names_that_lead_elsewhere(tmp_path, name):
    with Server(FILES) as server:
        server.files[LIST] = sums({**FILES, name: b"x"})
        run(server, tmp_path / "a").refused(LIST, "is not a checksum and a safe name")
        assert set(server.asked()) == {LIST}
        assert contents(tmp_path) == {f"a/{RECORD}": b""}
        (tmp_path / "a" / LIST).write_bytes(server.files[LIST])
        run(server, tmp_path / "a").refused(LIST, "is not a checksum and a safe name", "delete it")
        assert not server.asked()


@pytest.mark.parametrize("damage", [lambda text: text[:-1], lambda text: b"\xff" + text])
def test_a_damaged_list(tmp_path, damage):
    with Server(FILES) as server:
        server.files[LIST] = damage(server.files[LIST])
        run(server, tmp_path).refused(LIST, "line", "another --base-url")
        assert server.asked() == [LIST] * HASTY.attempts and not (tmp_path / LIST).exists()


def test_a_name_that_is_listed_twice(tmp_path):
    with Server(FILES) as server:
        server.files[LIST] += server.files[LIST]
        run(server, tmp_path).refused("names p00/p00000/p00000_s00.atr again")


def test_the_disk_is_too_small(tmp_path, monkeypatch):
    usage = SimpleNamespace(free=6 * 10**6)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with Server(FILES) as server:
        run(server, tmp_path).refused("6 MB free, about 6.42 MB needed", "--patients")
        assert server.asked() == [LIST]
        usage.free = 7 * 10**6
        assert run(server, tmp_path).code == 0
        usage.free = 0
        assert run(server, tmp_path).code == 0


def test_a_file_cannot_be_written(tmp_path):
    (tmp_path / BAD).mkdir(parents=True)
    with Server(FILES) as server:
        run(server, tmp_path).refused(BAD, "Is a directory")
        run(server, tmp_path / LIST).refused(LIST, "File exists")


def test_a_wrong_address(tmp_path):
    with Server(FILES) as server:
        run(server, tmp_path, base_url=server.url + "x/").refused(server.url, "404", "--base-url")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/"
        run(server, tmp_path, base_url=url).refused(url, "no connection", "--base-url")
    for url in ("http://[/", "http://a b/", "http://127.0.0.1:99999/", "http://*/"):
        run(server, tmp_path, base_url=url).refused(url, "--base-url")


def test_a_server_that_is_gone_is_given_up(tmp_path):
    files = cohort(40)
    with Server(files, lambda name, times: "whole" if name == LIST else "404") as server:
        result = run(server, tmp_path)
        result.refused("50 left out", "HTTP 404", "stopped after 50 in a row")
        assert len(server.asked()) < 70


def test_patients(tmp_path):
    with Server(FILES) as server:
        run(server, tmp_path, patients=[1, 3]).refused("no patient 3")
        assert server.asked() == [LIST]
        run(server, tmp_path, patients=[0, 2])
        assert loaded(tmp_path) == {name: FILES[name] for name in FILES if "p00001" not in name}
        assert "9 files, all whole; 3 loaded now" in run(server, tmp_path).out


def test_one_download_at_a_time(tmp_path):
    with Server(FILES) as server, downloading._alone(tmp_path):
        run(server, tmp_path).refused(str(tmp_path), "another download")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["mitdb", "--patients", "0-3"], "--patients: not for mitdb"),
        (["ptbxl"], "invalid choice"),
        (["mitdb", "--base-url", "ftp://physionet.org/"], "http://"),
        (["mitdb", "--workers", "0"], "--workers"),
        (["icentia11k", "--patients", "3-1"], "--patients"),
    ],
)
def test_flags(tmp_path, flags, words):
    command(download.main, *flags, "--out", tmp_path / "x").refused(words)
    assert not (tmp_path / "x").exists()


def test_icentia11k_for_its_reader(tmp_path, cohort_copy):
    files = contents(cohort_copy)
    with Server(files) as server:
        flags = ["icentia11k", "--out", tmp_path / "x", "--base-url", server.url[:-1]]
        assert command(download.main, *flags, "--patients", "0-5").code == 0
    assert loaded(tmp_path / "x") == files
    records, folders = icentia11k.find_records(tmp_path / "x")
    assert list(records) == list(range(6)) and len(folders) == 8
    assert icentia11k.read_header(records[0][0]).samples == 6000


def test_mitdb_for_its_converter(tmp_path):
    numbers = [*range(100, 110), *range(200, 238)]
    files = {f"{number}.{suffix}": b"x" for number in numbers for suffix in SUFFIXES}
    others = {"102-0.atr": b"", "x_mitdb/x_100.hea": b"", "RECORDS": b"", "mitdbdir/100.dat": b""}
    with Server(files | others) as server:
        assert run(server, tmp_path / "x", "mitdb").code == 0
        del server.files["100.dat"], files["100.dat"]
        server.files[LIST] = sums(files)
        run(server, tmp_path / "y", "mitdb").refused("has 143 of the 144 files")
    assert sorted(wfdb_source.find_records(tmp_path / "x")) == numbers


def test_challenge17_for_its_reader(tmp_path):
    write_challenge17(tmp_path / "made", recordings=8, seed=0)
    with zipfile.ZipFile(tmp_path / "training2017.zip", "w") as archive:
        for name, content in contents(tmp_path / "made").items():
            archive.writestr(f"training2017/{name}", content)
    zipped = (tmp_path / "training2017.zip").read_bytes()
    files = {
        "training2017.zip": zipped,
        "REFERENCE-v3.csv": contents(tmp_path / "made")["REFERENCE.csv"],
    }
    with Server(files | {"training/REFERENCE-v3.csv": b""}) as server:
        assert run(server, tmp_path / "x", "challenge17").code == 0
        run(server, tmp_path / "x", "icentia11k").refused("has 0 of the set’s files", "--out")
    for labels in ("zip", "v3"):
        assert len(challenge17.read_listing(tmp_path / "x/training2017.zip", labels).records) == 8
