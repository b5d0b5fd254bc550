"""Download a public data set, each file checked against its published SHA-256.

    python -m recordings.download icentia11k --patients 0-109 --out data/icentia11k

The same command continues where it stopped, and checks files that were put there by hand.
"""

import argparse
import hashlib
import os
import re
import shutil
import sys
import time
from collections.abc import Collection
from itertools import islice
from multiprocessing.pool import ThreadPool
from pathlib import Path

import requests
from tqdm import tqdm

from recordings import Unusable

LIST = "SHA256SUMS.txt"
ATTEMPTS, PAUSE = 4, 1.0  # for each file; seconds before the second, doubled before each further
TIMEOUT = (10, 60)  # seconds for the connection, and for the next bytes
OFFLINE = 5  # seconds until there is no connection
WORKERS, GIVE_UP = 8, 20  # files that are downloaded at once; files that could not be
ICENTIA = r"p\d{2}/p(?P<patient>\d{5})/p(?P=patient)_s\d{2,}\.(dat|hea|atr)"
# Folder on PhysioNet, pattern of the files that are wanted (none of which leads out of the folder),
# and their mean size in bytes.
DATASETS = {
    "challenge17": ("challenge-2017/1.0.0", r"training2017\.zip|REFERENCE-v3\.csv", 47_500_000),
    "mitdb": ("mitdb/1.0.0", r"\d{3}\.(dat|hea|atr)", 652_000),
    "svdb": ("svdb/1.0.0", r"8\d{2}\.(dat|hea|atr)", 232_000),
    "icentia11k": ("icentia11k-continuous-ecg/1.0", ICENTIA, 714_000),
}


def download(dataset: str, out: Path, patients: Collection[int], base_url: str | None) -> None:
    """Complete the files of `dataset` in `out`; of these Icentia11k `patients`, or of all if empty.

    Raises `Unusable` if files could not be downloaded from PhysioNet or the mirror `base_url`.
    """
    folder, wanted, size = DATASETS[dataset]
    url = (base_url or f"https://physionet.org/files/{folder}").rstrip("/")
    out.mkdir(parents=True, exist_ok=True)
    if not (out / LIST).exists():
        check_connection(url, out)
        if failure := fetch(f"{url}/{LIST}", out / LIST, None):
            raise Unusable(f"{failure}; name a mirror by --base-url, or put the files into {out}")
    files = read_list(out / LIST, wanted, patients)
    absent = sum(not (out / name).exists() for name in files)
    plan = f"{absent:,} to download, about {absent * size / 1e6:,.0f} MB"
    print(f"{dataset}: {len(files) - absent:,} files to check, {plan}")
    if absent * size > shutil.disk_usage(out).free:
        raise Unusable(f"{out}: the disk is too small; free some space, or choose another --out")
    if absent:
        check_connection(url, out)
    jobs = [(f"{url}/{name}", out / name, sha) for name, sha in files.items()]
    # Unlike those of an executor, the threads of a ThreadPool do not delay the exit on Ctrl-C.
    with ThreadPool(WORKERS) as pool:
        results = pool.imap(lambda job: fetch(*job), jobs)
        results = tqdm(results, total=len(jobs), leave=False, disable=None)
        failures = list(islice(filter(None, results), GIVE_UP))
    if failures:
        text = f"{len(failures)} files could not be downloaded, such as {failures[0]}"
        raise Unusable(f"{text}; the others are kept in {out}, and the same command continues")
    print(f"{out}: {len(files):,} files, all verified")


def check_connection(url: str, out: Path) -> None:
    """Raises `Unusable` without a connection: the attempts for every file would take minutes."""
    try:
        requests.head(url, timeout=OFFLINE)
    except requests.ReadTimeout:  # a slow server
        return
    except requests.ConnectionError as error:
        by_hand = f"get {url}/{LIST} and the files that it lists elsewhere, put them into {out}"
        reason = f"no connection ({type(error).__name__}); name a mirror by --base-url, or"
        raise Unusable(f"{reason} {by_hand} and repeat the command, which checks them") from None


def read_list(path: Path, wanted: str, patients: Collection[int]) -> dict[str, str]:
    """SHA-256 of each wanted file, by name; raises `Unusable` if the list lacks some."""
    line = re.compile(rf"(?P<sha>\S+)[ *]+(?P<name>{wanted})")
    matches = filter(None, map(line.fullmatch, path.read_text(errors="replace").splitlines()))
    files = {m["name"]: m["sha"] for m in matches if not patients or int(m["patient"]) in patients}
    if not files or (patients and set(patients) - {int(name[5:10]) for name in files}):
        raise Unusable(f"{path} lacks files; correct --patients, or delete it to load it again")
    return files


def fetch(url: str, path: Path, sha: str | None) -> str | None:
    """Download a URL to a path, whole or not at all, unless it is there with this SHA-256 (None:
    unknown); returns why that failed, or None."""
    if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha:
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    headers = {"Accept-Encoding": "identity"}  # bytes as they were when their checksum was taken
    for attempt in range(ATTEMPTS):
        time.sleep(PAUSE * 2 ** (attempt - 1) if attempt else 0)
        try:
            response = requests.get(url, timeout=TIMEOUT, headers=headers)
            response.raise_for_status()
            if sha in (None, hashlib.sha256(response.content).hexdigest()):
                part.write_bytes(response.content)
                part.replace(path)
                return None
            reason = "wrong checksum"
        except requests.RequestException as error:
            reason = str(error)[:200]
    return f"{url}: {reason}"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m recordings.download", description=__doc__.split("\n")[0], allow_abbrev=False
    )
    parser.error = lambda message: parser.exit(2, f"error: {message} (see --help)\n")
    flag = parser.add_argument
    flag("dataset", choices=list(DATASETS))
    flag("--out", type=Path, required=True, help="folder of the files; that of an earlier run too")
    flag("--patients", type=_patients, default=(), help="[icentia11k] such as 0,1,2 or 0-109")
    flag("--base-url", help="folder of a mirror, in place of physionet.org")
    args = parser.parse_args()
    if args.patients and args.dataset != "icentia11k":
        parser.error(f"argument --patients: not for {args.dataset}")
    download(**vars(args))


def _patients(text: str) -> set[int]:
    """`0,1,2` and ranges `0-109`, ends included."""
    spans = [part.partition("-") for part in text.split(",")]
    ranges = [range(int(first), int(last or first) + 1) for first, _, last in spans]
    if not all(ranges):
        raise ValueError
    return set().union(*ranges)


if __name__ == "__main__":
    try:
        main()
    except (Unusable, OSError, KeyboardInterrupt) as error:
        print(f"error: {str(error) or 'interrupted'}", file=sys.stderr)
        sys.exit(2)
