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
from multiprocessing.pool import ThreadPool
from pathlib import Path

import requests
from tqdm import tqdm

from recordings import Unusable

LIST = "SHA256SUMS.txt"
ATTEMPTS, PAUSE = 4, 1.0  # for each file; seconds before the second, doubled before each further
TIMEOUT = (10, 60)  # seconds for the connection, and for the next bytes
HEADERS = {"Accept-Encoding": "identity"}  # bytes as they were when their checksum was taken
GIVE_UP = 20  # files that could not be downloaded
ICENTIA = r"p\d{2}/p(?P<patient>\d{5})/p(?P=patient)_s\d{2,}\.(dat|hea|atr)"
# Folder on PhysioNet, pattern of the files that are wanted (none of which leads out of the folder),
# and their mean size in bytes.
DATASETS = {
    "challenge17": ("challenge-2017/1.0.0", r"training2017\.zip|REFERENCE-v3\.csv", 47_500_000),
    "mitdb": ("mitdb/1.0.0", r"\d{3}\.(dat|hea|atr)", 652_000),
    "svdb": ("svdb/1.0.0", r"8\d{2}\.(dat|hea|atr)", 232_000),
    "icentia11k": ("icentia11k-continuous-ecg/1.0", ICENTIA, 714_000),
}


def download(
    dataset: str, out: Path, patients: Collection[int] = (), base_url: str | None = None,
    workers: int = 8,
) -> None:  # fmt: skip
    """Complete the files of `dataset` in `out`; those of these Icentia11k `patients`, or of all.

    Raises `Unusable` if the list of the files lacks some, or if files could not be downloaded from
    PhysioNet or the mirror `base_url`; those that could are kept.
    """
    folder, wanted, size = DATASETS[dataset]
    url = (base_url or f"https://physionet.org/files/{folder}").rstrip("/")
    out.mkdir(parents=True, exist_ok=True)
    if not (out / LIST).exists() and (failure := fetch(f"{url}/{LIST}", out / LIST, None)):
        raise Unusable(f"{failure}; name a mirror by --base-url, or put the files into {out}")
    files = read_list(out / LIST, wanted, patients)
    absent = sum(not (out / name).exists() for name in files)
    free, needed = shutil.disk_usage(out).free / 1e6, absent * size / 1e6
    print(f"{dataset}: {len(files) - absent:,} files to check, {absent:,} to download, "
          f"about {needed:,.0f} MB ({free:,.0f} MB are free)")  # fmt: skip
    if needed > free:
        raise Unusable(f"{out}: the disk is too small; free some space, or choose another --out")
    jobs = [(f"{url}/{name}", out / name, sha) for name, sha in files.items()]
    failures = []
    # Unlike those of an executor, the threads of a ThreadPool do not delay the exit on Ctrl-C.
    with ThreadPool(workers) as pool:
        results = pool.imap(lambda job: fetch(*job), jobs)
        for failure in tqdm(results, total=len(jobs), leave=False, disable=None):
            failures += [failure] if failure else []
            if len(failures) == GIVE_UP:
                break
    if failures:
        text = f"{len(failures)} files could not be downloaded, such as {failures[0]}"
        raise Unusable(f"{text}; the others are kept in {out}, and the same command continues")
    print(f"{out}: {len(files):,} files, all verified")


def read_list(path: Path, wanted: str, patients: Collection[int]) -> dict[str, str]:
    """SHA-256 of each wanted file, by name; raises `Unusable` where the list lacks some."""
    line = re.compile(rf"(?P<sha>\S+)[ *]+(?P<name>{wanted})")
    matches = filter(None, map(line.fullmatch, path.read_text(errors="replace").splitlines()))
    files = {m["name"]: m["sha"] for m in matches if not patients or int(m["patient"]) in patients}
    absent = set(patients) and set(patients) - {int(name[5:10]) for name in files}
    if absent or not files:
        what = f"patient {min(absent)}; correct --patients" if absent else "file of the data set"
        raise Unusable(f"{path} lists no {what}, or delete it to load it again")
    return files


def fetch(url: str, path: Path, sha: str | None) -> str | None:
    """Download a URL to a path, whole or not at all, unless it is there with this SHA-256 (None:
    unknown); returns why that failed, or None."""
    if sha and path.is_file():
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == sha:
                return None
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    for attempt in range(ATTEMPTS):
        time.sleep(PAUSE * 2 ** (attempt - 1) if attempt else 0)
        digest = hashlib.sha256()
        try:
            response = requests.get(url, stream=True, timeout=TIMEOUT, headers=HEADERS)
            with response, part.open("wb") as file:
                response.raise_for_status()
                for chunk in response.iter_content(2**18):
                    file.write(chunk)
                    digest.update(chunk)
            if sha in (None, digest.hexdigest()):
                part.replace(path)
                return None
            reason = "wrong checksum"
        except requests.HTTPError:
            reason = f"HTTP {response.status_code}"
        except requests.RequestException as error:
            reason = f"no connection ({type(error).__name__})"
        finally:
            part.unlink(missing_ok=True)
    return f"{url}: {reason}"


def main() -> None:
    """Parse the flags and download."""
    parser = argparse.ArgumentParser(
        prog="python -m recordings.download", description=__doc__.split("\n")[0], allow_abbrev=False
    )
    parser.error = lambda message: parser.exit(2, f"error: {message} (see --help)\n")
    flag = parser.add_argument
    flag("dataset", choices=list(DATASETS))
    flag("--out", type=Path, required=True, help="folder of the files; that of an earlier run too")
    flag("--patients", type=_patients, default=(), help="[icentia11k] such as 0,1,2 or 0-109")
    flag("--base-url", help="folder of a mirror, in place of physionet.org")
    flag("--workers", type=int, choices=range(1, 65), default=8, metavar="N",
         help="files that are downloaded at once; by default 8")  # fmt: skip
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
    except (Unusable, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit("interrupted")
