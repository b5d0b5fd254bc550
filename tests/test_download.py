"""The downloader against a server on this machine: only files with the right checksum are kept."""

import hashlib
import shutil
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest

from finetuning.datasets import challenge17
from pretraining.icentia11k import reader as icentia11k
from recordings import download
from recordings.download import LIST
from recordings.synthetic import write_challenge17
from tests.helpers import command, contents

SUFFIXES = ("atr", "dat", "hea")
FILES = {
    name: f"all that {name} holds\n".encode()
    for name in (f"p00/p{p:05d}/p{p:05d}_s00.{suffix}" for p in range(3) for suffix in SUFFIXES)
}
BAD = "p00/p00001/p00001_s00.dat"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server, name = self.server, self.path[1:]
        content = server.files.get(name)
        fault = server.fault(name, server.asked[name]) if content else 404
        server.asked[name] += 1
        if isinstance(fault, int):
            self.send_error(fault)
            return
        self.send_response(200)
        self.send_header("Content-Length", len(content))
        self.end_headers()
        changed = {"wrong": content[::-1], "dropped": content[:-5]}
        self.wfile.write(changed.get(fault, content))

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    """Serves `files` (whose list it adds) with `fault(name, times asked before)`."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(download, "PAUSE", 0.01)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.daemon_threads, http.block_on_close = True, False
        http.asked, http.fault = Counter(), lambda name, times: None
        http.url = f"http://127.0.0.1:{http.server_port}/"
        serve(http, FILES | {"index.html": b"", "RECORDS": b"p00"})
        Thread(target=http.serve_forever, daemon=True).start()
        yield http
        http.shutdown()


def serve(server, files):
    sums = (f"{hashlib.sha256(content).hexdigest()} {name}\n" for name, content in files.items())
    server.files = {**files, LIST: "".join(sums).encode()}


def run(server, out, dataset="icentia11k"):
    server.asked.clear()
    return command(lambda: download.download(dataset, out, (), server.url))


def loaded(out) -> dict[str, bytes]:
    """All files in `out`, hidden ones too, but for the list."""
    return {name: data for name, data in contents(out).items() if name != LIST}


@pytest.mark.parametrize(
    ("fault", "reason"),
    [("wrong", "wrong checksum"), ("dropped", "IncompleteRead"), (503, "503 Server Error")],
)
def test_a_fault(tmp_path, server, fault, reason):
    """One file is never to be had, all others (but for the list) at the second attempt."""
    server.fault = lambda name, times: (
        fault if name == BAD or (name != LIST and not times) else None
    )
    run(server, tmp_path).refused(BAD, reason, "the same command continues")
    assert server.asked[BAD] == download.ATTEMPTS
    assert loaded(tmp_path) == {name: FILES[name] for name in FILES if name != BAD}
    server.fault = lambda name, times: None
    result = run(server, tmp_path)
    assert result.code == 0 and "1 to download" in result.out
    assert set(server.asked) == {BAD} and loaded(tmp_path) == FILES
    assert run(server, tmp_path).code == 0 and not server.asked


def test_files_put_there_by_hand_are_checked(tmp_path, server):
    changed, right, *others = sorted(FILES)
    for name, content in ((changed, b"no"), (right, FILES[right])):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    assert "2 files to check, 7 to download" in run(server, tmp_path).out
    assert set(server.asked) == {LIST, changed, *others} and loaded(tmp_path) == FILES


def test_without_a_connection(tmp_path, server):
    assert run(server, tmp_path).code == 0
    url, start = "http://127.0.0.1:1/x", time.monotonic()
    assert command(lambda: download.download("icentia11k", tmp_path, (), url)).code == 0  # all here
    (tmp_path / BAD).unlink()
    for out in (tmp_path, tmp_path / "new"):
        result = command(lambda out=out: download.download("icentia11k", out, (), url))
        result.refused("no connection", f"get {url}/{LIST}", f"put them into {out}", "--base-url")
    assert time.monotonic() - start < 5


def test_lists_that_lead_elsewhere_or_list_nothing(tmp_path, server):
    odd = ("../p00000_s00.dat", "p00/../../p00000_s00.dat", "/tmp/x.dat", "..\\x.dat")
    serve(server, FILES | dict.fromkeys(odd, b"x"))
    assert run(server, tmp_path / "a").code == 0
    assert loaded(tmp_path / "a") == FILES and list(tmp_path.iterdir()) == [tmp_path / "a"]
    server.files[LIST] = b"<html>Sign in</html>"
    run(server, tmp_path / "b").refused(LIST, "lacks files", "delete it")


def test_a_disk_that_is_too_small_is_said_first(tmp_path, server, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    run(server, tmp_path).refused("the disk is too small; free some space")
    assert not loaded(tmp_path)


def test_too_many_failures_end_the_run(tmp_path, server):
    serve(server, {f"p00/p{p:05d}/p{p:05d}_s00.dat": b"x" for p in range(99)})
    server.fault = lambda name, times: None if name == LIST else 404
    run(server, tmp_path).refused(f"{download.GIVE_UP} files could not be downloaded")
    server.files = {}
    run(server, tmp_path / "b").refused(LIST, "404 Client Error", "name a mirror by --base-url")


@pytest.mark.parametrize(
    ("flags", "words"),
    [("mitdb --patients 0-3", "--patients: not for mitdb"), ("ptbxl", "invalid choice"),
     ("icentia11k --patients 3-1", "--patients"), ("icentia11k --patients x", "--patients")],
)  # fmt: skip
def test_flags(tmp_path, flags, words):
    command(download.main, *flags.split(), "--out", tmp_path / "x").refused(words)
    assert not (tmp_path / "x").exists()


def test_icentia11k_for_its_reader(tmp_path, cohort_copy, server):
    files = contents(cohort_copy)
    serve(server, files)
    flags = ["icentia11k", "--out", tmp_path / "x", "--base-url", server.url]
    command(download.main, *flags, "--patients", "1,9").refused("lacks files; correct --patients")
    assert command(download.main, *flags, "--patients", "1,3-5").code == 0
    assert set(icentia11k.find_records(tmp_path / "x")) == {1, 3, 4, 5}
    assert command(download.main, *flags).code == 0 and loaded(tmp_path / "x") == files


def test_challenge17_for_its_reader(tmp_path, server):
    write_challenge17(tmp_path / "made/training2017", recordings=8, seed=0)
    zipped = shutil.make_archive(tmp_path / "x", "zip", tmp_path / "made")
    labels = (tmp_path / "made/training2017/REFERENCE.csv").read_bytes()
    serve(server, {"training2017.zip": Path(zipped).read_bytes(), "REFERENCE-v3.csv": labels})
    assert run(server, tmp_path / "x", "challenge17").code == 0
    assert len(challenge17.read_listing(tmp_path / "x/training2017.zip", "v3").records) == 8
