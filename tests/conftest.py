"""Fixtures that several test files share."""

import os
import shutil
from pathlib import Path

import pytest

from finetuning import prepare
from recordings.synthetic import write_challenge17, write_icentia11k
from tests.helpers import command


@pytest.fixture(scope="session")
def ecg_data() -> Path:
    """Folder of real recordings, see the README; tests that need it are skipped without it."""
    if "ECG_DATA" not in os.environ:
        pytest.skip("needs real recordings (ECG_DATA)")
    return Path(os.environ["ECG_DATA"])


@pytest.fixture(scope="session")
def cohort_folder(tmp_path_factory) -> Path:
    """Synthetic Icentia11k: 6 patients, 2 segments each, 6,000 samples. Not to be changed."""
    root = tmp_path_factory.mktemp("cohort") / "icentia11k"
    write_icentia11k(root, patients=6, segments=2, samples=6000, seed=0)
    return root


@pytest.fixture
def cohort_copy(cohort_folder, tmp_path) -> Path:
    """A copy of it, without an index, to damage."""
    ignored = shutil.ignore_patterns("annotation_index")
    return shutil.copytree(cohort_folder, tmp_path / "icentia11k", ignore=ignored)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> Path:
    """Folder of a prepared set, p_train.npz and p_test.npz: 48 recordings to train on, 12 to test
    on, padded to 512 samples. Not to be changed."""
    root = tmp_path_factory.mktemp("prepared")
    write_challenge17(root / "source", recordings=60, seed=0)
    flags = ["--source", root / "source", "--labels", "zip", "--pad", 512, "--out", root / "data/p"]
    result = command(prepare.main, *flags)
    assert result.code == 0, result
    return root / "data"
