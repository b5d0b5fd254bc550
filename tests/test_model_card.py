"""Model cards: content, licences, lineage; and the weights that come with the repository."""

import json
import re

import pytest
import torch

import finetuning.trainer
import pretraining.trainer
from finetuning.datasets import challenge17
from finetuning.predict import Predictor
from tests.helpers import ROOT, command, make_metadata, put_weights
from utils import model_card
from utils.files import sha256
from utils.model_card import DATA_SETS, Metadata, render
from utils.weights import load_encoder, read_tensors, read_weights, store_half

CPU = ["--device", "cpu", "--precision", "fp32", "--epochs", 1]
SHIPPED = sorted((ROOT / "weights").glob("*.safetensors"))


def finetune(prepared, start, job):
    data = ["--train", prepared / "p_train.npz", "--test", prepared / "p_test.npz"]
    flags = ["--weights-file", start, "--job-dir", job, "--val-size", 0.25, *CPU]
    return command(finetuning.trainer.main, *data, *flags)


def test_fine_tuning_ends_with_a_card(prepared, tmp_path):
    start = put_weights(tmp_path / "start.safetensors", dataset="icentia11k", derived_from=[])
    half = tmp_path / "half.safetensors"
    store_half(start, half)
    assert finetune(prepared, half, tmp_path / "job").code == 0
    metadata = read_weights(tmp_path / "job/best_model.safetensors")[1]
    assert metadata.lineage == ["icentia11k", "challenge17"]
    text = (tmp_path / "job/MODEL_CARD.md").read_text()
    scores = json.loads((tmp_path / "job/scores.json").read_text())
    for words in (
        "# resnet18, classification, challenge17", "Not a medical device",
        "A (atrial fibrillation), N (normal rhythm), O (other rhythm), ~ (too noisy)",
        'Predictor.load("best_model.safetensors")', "--weights best_model.safetensors RECORD",
        "# (samples,), at any rate",
        "250 Hz, mV", "minus 0.0075 mV, divided by 0.2373 mV", "512 samples (2.0 s)",
        "- **labels**: zip", "- **recordings, train**: 36\n", "- **recordings, test**: 12\n",
        "initial weights**: icentia11k (the Icentia11k", "CC BY-NC-SA 4.0", "ODC-By 1.0",
        "for non-commercial use only**: they were made from icentia11k.",
        f"| macro_f1 | {scores['val']['macro_f1']:.3f} | {scores['test']['macro_f1']:.3f} |",
        f"| f1 A | {scores['val']['f1']['A']:.3f} | {scores['test']['f1']['A']:.3f} |",
        "| ece |",
    ):  # fmt: skip
        assert words in text, words
    assert str(tmp_path) not in text


def test_pretraining_ends_with_a_card(cohort_folder, tmp_path):
    flags = [
        "--train", cohort_folder, "--index", tmp_path / "index", "--task", "beat", "--frame-size",
        256, "--batch-size", 8, "--steps-per-epoch", 2, *CPU,
    ]  # fmt: skip
    validated = ["--val-patients", 2, "--val-size", 16]
    first, second = tmp_path / "first", tmp_path / "second"
    main = pretraining.trainer.main
    assert command(main, *flags, *validated, "--stages", 1, "--job-dir", first).code == 0
    start = ["--weights-file", put_weights(tmp_path / "start", dataset="mine", derived_from=["x"])]
    assert command(main, *flags, *start, "--val-patients", 0, "--job-dir", second).code == 0
    text = (first / "MODEL_CARD.md").read_text()
    for words in (
        "the first stages: 1, the encoder alone", 'load_encoder("weights.safetensors")',
        "- **patients, train**: 4\n", "- **patients, validation**: 2\n", "16 in 1 epochs",
        "initial weights**: random", "non-commercial", "| loss |", "without_input",
    ):  # fmt: skip
        assert words in text, words
    assert read_weights(first / "weights.safetensors")[1].derived_from == []
    assert read_weights(second / "weights.safetensors")[1].lineage == ["x", "mine", "icentia11k"]
    text = (second / "MODEL_CARD.md").read_text()
    assert "initial weights**: x; then mine" in text and "## Scores" not in text
    assert "- mine: no known public data set; ask the provider of the recordings." in text


def test_lineage():
    assert make_metadata(dataset="b").lineage == ["unknown", "b"]
    assert make_metadata(dataset="a+b", derived_from=[]).lineage == ["a", "b"]
    assert make_metadata(dataset="b", derived_from=["a", "b"]).lineage == ["a", "b"]


def test_files_from_before_there_was_a_lineage():
    header = json.loads(make_metadata().to_header()["contract"])
    del header["derived_from"]
    metadata = Metadata.from_header({"contract": json.dumps(header)}, "x")
    text = render("x", {}, metadata, {}, {})
    assert "initial weights**: not recorded" in text and "further licences may apply" in text


def test_classes_of_the_challenge():
    assert tuple(DATA_SETS["challenge17"].classes) == challenge17.CLASSES


def test_scores_that_are_absent():
    scores = {"epoch": 3, "test": {"macro_f1": 0.5, "cinc3": None, "ece": 0.04, "new": [1]}}
    table = model_card.score_table(scores)
    assert table.splitlines()[2:] == ["| macro_f1 | 0.500 |", "| ece | 0.040 |"]
    assert not model_card.score_table({}) and not model_card.score_table({"epoch": 1})


def test_other_inputs():
    metadata = make_metadata(
        in_channels=2, mean=[0.5, -1e-3], sd=[1, 2.0], multi_label=True, temperature=1.25,
        spectrogram={"window": 256}, context={"ns": 4},
    )  # fmt: skip
    text = render("x", {"head.bias": torch.zeros(4)}, metadata, {}, {})
    for words in ("minus 0.5, -0.001 mV, divided by 1, 2 mV", "any of a, b", "window 256", "ns 4",
                  "sigmoid of (logits / 1.25, the temperature)"):  # fmt: skip
        assert words in text
    text = render("x", {}, make_metadata(mean=None, sd=None), {}, {})
    assert "each input by its own mean and standard deviation" in text and "features" in text


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_weights_have_a_size_a_checksum_and_a_card(path):
    assert path.stat().st_size <= 10e6
    sums = path.with_name("SHA256SUMS").read_text().splitlines()
    assert f"{sha256(path)}  {path.name}" in sums
    metadata, card = read_weights(path)[1], path.with_suffix(".md").read_text()
    assert metadata.lineage and all(name in card for name in metadata.lineage)
    assert "Not a medical device" in card and "ODC-By 1.0" in card and path.name in card
    assert not re.search(r"(^|\s|`)/\w+/", card)  # no paths
    kinds = {str(tensor.dtype) for tensor in read_tensors(path)[0].values()}
    assert kinds == {"torch.float16", "torch.float32"}


def test_the_purpose_of_shipped_weights():
    assert [path.stem for path in SHIPPED] == ["af_resnet18", "encoder_resnet18"]
    af, encoder = SHIPPED
    assert load_encoder(encoder).metadata.lineage == ["mitdb"]
    assert Predictor.load(af, device="cpu", precision="fp32")
    metadata = read_weights(af)[1]
    assert metadata.lineage == ["mitdb", "challenge17"] and metadata.classes == list("ANO~")
    assert metadata.temperature != 1
