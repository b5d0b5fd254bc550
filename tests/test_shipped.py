"""The weights that come with the repository are what their cards and checksums say."""

import re

import pytest

from finetuning.predict.member import Member
from tests.helpers import ROOT
from utils.engine import choose_hardware
from utils.files import sha256
from utils.weights import load_encoder, read_tensors, read_weights

WEIGHTS = ROOT / "weights"
FILES = sorted(WEIGHTS.glob("*.safetensors"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_size_checksum_and_card(path):
    assert path.stat().st_size <= 10e6
    assert f"{sha256(path)}  {path.name}" in (WEIGHTS / "SHA256SUMS").read_text().splitlines()
    contract, card = read_weights(path)[1], path.with_suffix(".md").read_text()
    assert contract.lineage and all(name in card for name in contract.lineage)
    assert "Not a medical device" in card and "ODC-By 1.0" in card and path.name in card
    assert not re.search(r"(^|\s|`)/\w+/", card)  # no paths
    kinds = {str(tensor.dtype) for tensor in read_tensors(path)[0].values()}
    assert kinds == {"torch.float16", "torch.float32"}


def test_what_they_are_for():
    assert [path.stem for path in FILES] == ["af_resnet18", "encoder_resnet18"]
    af, encoder = FILES
    assert load_encoder(encoder).contract.lineage == ["mitdb"]
    contract = Member.load(af, choose_hardware("cpu", "fp32")).contract
    assert contract.lineage == ["mitdb", "challenge17"] and contract.classes == list("ANO~")
    assert contract.temperature != 1
