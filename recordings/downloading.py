"""Public data sets: where they are, what is wanted of them, and what of it is on the disk."""

import fcntl
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple, TextIO
from urllib.parse import quote

from tqdm import tqdm

from recordings import Unusable
from recordings.fetching import Failed, Fetcher, Patience, Result, Task, fetch_all
from utils.manifest import summary

LIST = "SHA256SUMS.txt"
LIST_LIMIT = 10**9  # bytes; that of Icentia11k has 1.6 million lines of 88
RECORD = "VERIFIED.txt"
GIVE_UP = 50  # files that fail one after another
_LINE = re.compile(r"([0-9a-f]{64}) [ *]?([^/\\:\0-\x1f]+(?:/[^/\\:\0-\x1f]+)*)\n")


class Dataset(NamedTuple):
    """Where a data set is, which of its names are wanted, how many these are (where that is known)
    and what they weigh by suffix, in bytes, about."""

    url: str
    wanted: re.Pattern
    count: int | None
    sizes: dict[str, int]


DATASETS = {
    "challenge17": Dataset(
        "https://physionet.org/files/challenge-2017/1.0.0/",
        re.compile(r"training2017\.zip|REFERENCE-v3\.csv"),
        2,
        {"zip": 95_000_000, "csv": 76_752},
    ),
    "mitdb": Dataset(
        "https://physionet.org/files/mitdb/1.0.0/",
        re.compile(r"\d{3}\.(?:dat|hea|atr)"),
        144,
        {"dat": 1_950_000, "hea": 227, "atr": 5_123},
    ),
    "svdb": Dataset(
        "https://physionet.org/files/svdb/1.0.0/",
        re.compile(r"8\d{2}\.(?:dat|hea|atr)"),
        234,
        {"dat": 691_200, "hea": 84, "atr": 4_900},
    ),
    # Means of a patient; recordings of 70 minutes are all of one size.
    "icentia11k": Dataset(
        "https://physionet.org/files/icentia11k-continuous-ecg/1.0/",
        re.compile(r"p\d{2}/p(?P<patient>\d{5})/p(?P=patient)_s\d{2,}\.(?:dat|hea|atr)"),
        None,
        {"dat": 2_097_154, "hea": 87, "atr": 44_000},
    ),
}


class Plan(NamedTuple):
    """Lines of the list still to do, how many files of it are there but not known to be right, how
    many were verified before, and what those that are not there weigh in bytes, about."""

    pending: list[str]
    doubtful: int
    whole: int
    missing: int


def download(
    dataset: str,
    out: Path,
    patients: Sequence[int] | None = None,
    base_url: str | None = None,
    workers: int = 8,
    patience: Patience = Patience(),  # noqa: B008 (it cannot change)
) -> None:
    """Complete the files of `dataset` in the folder `out`.

    Args:
        patients: whose, of Icentia11k; everybody's by default.
        base_url: folder of a mirror, with a slash at its end.

    Raises:
        Unusable: the list of the files cannot be had or lacks some, the disk is too small, or
            some files could not be loaded; all that were are kept.
    """
    source = DATASETS[dataset]
    url = base_url or source.url
    out.mkdir(parents=True, exist_ok=True)
    with _alone(out) as record:
        _fetch_list(source, url, out, patience)
        plan = _make_plan(source, _choose(source, out, patients), out, record)
        _state(dataset, plan, out)
        tasks = _tasks(source, plan.pending, url, out)
        with closing(fetch_all(tasks, workers, patience)) as results:
            loaded = _follow(results, plan.missing, record, out)
    print(f"{out}: {plan.whole + len(plan.pending):,} files, all whole; {loaded:,} loaded now")


@contextmanager
def _alone(out: Path) -> Iterator[TextIO]:
    """The record of verified files, to read and to append to, by one process at a time."""
    with (out / RECORD).open("a+", encoding="utf-8", errors="replace", buffering=1) as record:
        try:
            fcntl.flock(record, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Unusable(f"another download to {out} is running; wait for it") from None
        except OSError:
            pass  # some network file systems have no locks
        record.seek(0)
        yield record


def _fetch_list(source: Dataset, url: str, out: Path, patience: Patience) -> None:
    """Load the list of checksums once."""

    def check(path: Path, digest: str) -> None:
        try:
            for _ in _read_list(source, path):
                pass
        except ValueError as error:
            raise Failed(str(error)) from None

    if (out / LIST).exists():
        return
    try:
        Fetcher(patience).fetch(url + LIST, out / LIST, LIST_LIMIT, check)
    except Failed as failure:
        raise Unusable(f"{url}{LIST}: {failure}; try again later, or another --base-url") from None


def _read_list(source: Dataset, path: Path) -> Iterator[tuple[str, re.Match]]:
    """SHA-256 and name, as `source.wanted` matches it, of each wanted line.

    Raises:
        ValueError: a line is odd or leads out of the folder, or a file is there twice or not at
            all, which shows at the end.
    """
    seen = set()  # of each name 64 bits, so that 1.6 million of them are no burden
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            match = _LINE.fullmatch(line)
            if not match or not {".", ".."}.isdisjoint(match[2].split("/")):
                raise ValueError(f"line {number} is not a checksum and a safe name: {line[:120]!r}")
            wanted = source.wanted.fullmatch(match[2])
            if not wanted:
                continue
            if hash(match[2]) in seen:
                raise ValueError(f"line {number} names {match[2]} again")
            seen.add(hash(match[2]))
            yield match[1], wanted
    if len(seen) != source.count if source.count else not seen:
        raise ValueError(f"has {len(seen)} of the {source.count or 'set’s'} files")


def _choose(
    source: Dataset, out: Path, patients: Sequence[int] | None
) -> Iterator[tuple[str, str]]:
    """SHA-256 and name of the files of `patients`; `Unusable` where the list lacks one."""
    asked, found = set(patients or ()), set()
    try:
        for digest, match in _read_list(source, out / LIST):
            if asked:
                patient = int(match["patient"])
                if patient not in asked:
                    continue
                found.add(patient)
            yield digest, match[0]
    except ValueError as error:
        raise Unusable(
            f"{out / LIST}: {error}; choose another --out for another set, or delete it, to load"
            " it again"
        ) from None
    if asked - found:
        raise Unusable(f"{out / LIST} has no patient {min(asked - found)}; correct --patients")


def _make_plan(
    source: Dataset, wanted: Iterable[tuple[str, str]], out: Path, record: Iterable[str]
) -> Plan:
    verified = {hash(line) for line in record}
    pending, doubtful, whole, missing = [], 0, 0, 0
    for digest, name in wanted:
        entry = _entry(digest, name, out)
        if entry is None:
            missing += _typical_size(source, name)
        elif hash(entry) in verified:
            whole += 1
            continue
        else:
            doubtful += 1
        pending.append(f"{digest} {name}")
    return Plan(pending, doubtful, whole, missing)


def _entry(digest: str, name: str, out: Path) -> str | None:
    """Line of the record for a file as it is now; None where it is not there."""
    try:
        found = os.stat(f"{out}/{name}")  # noqa: PTH116 (1.6 million paths take their time)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return f"{digest} {found.st_size} {found.st_mtime_ns} {name}\n"


def _typical_size(source: Dataset, name: str) -> int:
    return source.sizes[name.rpartition(".")[2]]


def _state(dataset: str, plan: Plan, out: Path) -> None:
    """Say what is going to happen; `Unusable` where there is no room for it."""
    free = shutil.disk_usage(out).free
    print(
        f"{dataset}: {plan.whole + len(plan.pending):,} files, of which {plan.whole:,} are whole"
        f" and {plan.doubtful:,} to be checked in {out}; about {_size(plan.missing)} to load,"
        f" {_size(free)} free"
    )
    if plan.missing > free:
        raise Unusable(
            f"{out}: {_size(free)} free, about {_size(plan.missing)} needed; free some space,"
            " or choose another --out or fewer --patients"
        )


def _tasks(source: Dataset, pending: Iterable[str], url: str, out: Path) -> Iterator[Task]:
    for line in pending:
        digest, _, name = line.partition(" ")
        limit = 10 * _typical_size(source, name) + 10**6
        yield Task(name, url + quote(name), out / name, digest, limit)


def _follow(results: Iterable[int | Result], missing: int, record: TextIO, out: Path) -> int:
    """Show progress and note what is whole; returns how many files were loaded.

    Raises:
        Unusable: some were not, or too many in a row.
    """
    failed, in_a_row, loaded = [], 0, 0
    with tqdm(
        total=missing, desc="loading", unit="B", unit_scale=True, leave=False, disable=None
    ) as bar:
        for result in results:
            if isinstance(result, int):
                bar.update(result)
            elif result.reason:
                failed.append({"record": result.task.name, "reason": result.reason})
                in_a_row += 1
                if in_a_row == GIVE_UP:
                    break
            else:
                record.write(_entry(result.task.digest, result.task.name, out) or "")
                loaded += result.loaded
                in_a_row = 0
    if failed:
        stopped = f"; stopped after {GIVE_UP} in a row" if in_a_row == GIVE_UP else ""
        raise Unusable(
            f"{summary(failed)}{stopped}; the others are kept in {out}, the same command continues"
        )
    return loaded


def _size(count: float) -> str:
    """Bytes in words: `95 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
