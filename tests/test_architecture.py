"""Who may import whom, and facts that are written down twice."""

import ast
import graphlib

import pytest

from finetuning.datasets import challenge17
from recordings import annotations, synthetic
from tests.helpers import ROOT

LOWEST = {"models", "recordings"}
SHARED = {"utils", *LOWEST}
STAGES = {"pretraining", "finetuning"}
MAY_IMPORT = {key: set() for key in LOWEST} | {"utils": LOWEST} | dict.fromkeys(STAGES, SHARED)
MAY_IMPORT |= dict.fromkeys(["report", "benchmarks"], SHARED | STAGES)  # besides itself
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for package in sorted(MAY_IMPORT)  # the same order in all processes of the tests
    for path in sorted((ROOT / package).rglob("*.py"))
    if path.stem != "__init__"
}


def imports(module: str) -> set[str]:
    """Full names of what a module imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def packages(module: str) -> set[str]:
    return {name.partition(".")[0] for name in imports(module)}


@pytest.mark.parametrize("module", MODULES)
def test_arrows_point_one_way(module):
    package = module.partition(".")[0]
    assert packages(module) & {*MAY_IMPORT, "tests"} <= MAY_IMPORT[package] | {package}


def test_no_cycles():
    graph = {module: imports(module) & MODULES.keys() for module in MODULES}
    assert "utils.cli" in graph["pretraining.trainer"]
    graphlib.TopologicalSorter(graph).prepare()


def test_modules_that_do_without():
    assert "argparse" not in packages("utils.engine")
    unpickling = {m for m in MODULES if packages(m) & {"pickle", "dill", "joblib", "shelve"}}
    assert unpickling == {"pretraining.icentia11k.torrent"}


def test_constants_written_down_twice_agree():
    assert challenge17.FS == synthetic.CHALLENGE_HZ
    assert set(challenge17.CLASSES) == set(synthetic.PERCENT)
    classes = set(annotations.BEAT_CLASSES)
    assert set(annotations.ICENTIA_BEATS.values()) == classes
    for alphabet in annotations.ALPHABETS.values():
        assert set(alphabet.beats.values()) <= annotations.ICENTIA_BEATS.keys()
        assert set(alphabet.rhythms.values()) <= annotations.ICENTIA_RHYTHMS.keys()
