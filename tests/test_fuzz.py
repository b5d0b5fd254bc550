"""Damaged files of every kind are read or refused; `tests.soak.fuzz` does more of the same."""

import pytest

from tests.fuzz_targets import TARGETS
from tests.fuzzing import attack


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_files_are_read_or_refused(name, tmp_path):
    outcomes = list(attack(TARGETS[name], range(200), tmp_path / "target"))
    assert len(outcomes) == 200
    assert not [outcome for outcome in outcomes if outcome.failed]
