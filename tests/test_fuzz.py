"""Damaged files of every kind are read or refused; `tests.soak.fuzz` does more of the same."""

import os
import time

import numpy as np
import pytest

from recordings import Unusable
from tests import fuzzing
from tests.fuzz_targets import TARGETS
from tests.fuzzing import EXECUTED, Target, attack


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_files_are_read_or_refused(name, tmp_path):
    outcomes = list(attack(TARGETS[name], range(200), tmp_path / "target"))
    assert len(outcomes) == 200
    assert not [outcome for outcome in outcomes if outcome.failed]


def put(folder):
    (folder / "file").write_bytes(b"honest")
    return folder / "file"


def fails(error):
    def read(path):
        raise error

    return read


@pytest.mark.parametrize(
    ("read", "words"),
    [
        (lambda path: None, "read"),
        (fails(Unusable("no")), "refused"),
        (fails(Unusable("no\nno")), "no clear line"),
        (fails(ValueError("a bug")), "ValueError: a bug"),
        (lambda path: time.sleep(9), "more than 1 s"),
        (lambda path: np.ones(2**25), "memory: "),
        (lambda path: np.ones(2**40), "MemoryError"),
        (lambda path: (path.parents[1] / EXECUTED).touch(), "something was executed"),
        (lambda path: os._exit(3), "no answer (exit code 3)"),
    ],
)
def test_what_is_no_failure_and_what_is_one(monkeypatch, tmp_path, read, words):
    def damaged(path):
        if path.read_bytes() != b"honest":
            read(path)

    monkeypatch.setattr(fuzzing, "SECONDS", 1)
    monkeypatch.setattr(fuzzing, "mutate", lambda content, rng: b"damaged")
    (outcome,) = attack(Target(put, damaged), range(1), tmp_path / "target")
    assert words in outcome.what and outcome.failed == (words not in ("read", "refused"))
