"""Damaged files of every kind are read or refused; `tests.soak.fuzz` does more of the same."""

import os
import time
from unittest import mock

import numpy as np
import pytest

from recordings import Unusable
from tests import fuzzing
from tests.fuzz_targets import TARGETS
from tests.fuzzing import EXECUTED, Target, attack


@pytest.mark.parametrize("name", TARGETS)
def test_honest_files_are_read_and_damaged_ones_read_or_refused(name, tmp_path):
    make, read, file = TARGETS[name]
    if " 9_" not in name:  # a payload
        make(tmp_path)
        read(tmp_path / file)
    outcomes = list(attack(TARGETS[name], range(100), tmp_path / "target"))
    assert len(outcomes) == 100
    assert not [outcome for outcome in outcomes if outcome.failed]


def put(folder):
    (folder / "file").write_bytes(b"honest")


@pytest.mark.parametrize(
    ("read", "words"),
    [
        (lambda path: None, "read"),
        (mock.Mock(side_effect=Unusable("no")), "refused"),
        (mock.Mock(side_effect=Unusable("no\nno")), "no clear line"),
        (mock.Mock(side_effect=ValueError("a bug")), "ValueError: a bug"),
        (lambda path: time.sleep(9), "more than 2 s"),
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

    monkeypatch.setattr(fuzzing, "SECONDS", 2)
    monkeypatch.setattr(fuzzing, "mutate", lambda content, rng: b"damaged")
    (outcome,) = attack(Target(put, damaged, "file"), range(1), tmp_path / "target")
    assert words in outcome.what and outcome.failed == (words not in ("read", "refused"))
