"""Model cards: content, licences, lineage; and the weights that come with the repository."""

import json
import re

import finetuning.trainer
import pretraining.trainer
from finetuning.datasets import challenge17
from finetuning.predict import Predictor
from tests.helpers import ROOT, command, make_metadata, put_weights
from utils.files import sha256
from utils.model_card import DATA_SETS, Metadata, render
from utils.weights import load_encoder, read_tensors, read_weights, store_half

CPU = ["--device", "cpu", "--precision", "fp32", "--epochs", 1]
SHIPPED = sorted((ROOT / "weights").glob("*.safetensors"))


def test_fine_tuning_ends_with_a_card(prepared, tmp_path):
    start, job = tmp_path / "half.safetensors", tmp_path / "job"
    store_half(put_weights(tmp_path / "start", dataset="icentia11k", derived_from=[]), start)
    data = ["--train", prepared / "p_train.npz", "--test", prepared / "p_test.npz"]
    flags = ["--weights-file", start, "--val-size", 0.25, "--job-dir", job, *CPU]
    assert command(finetuning.trainer.main, *data, *flags).code == 0
    metadata = read_weights(job / "best_model.safetensors")[1]
    assert metadata.lineage == ["icentia11k", "challenge17"]
    text = (job / "MODEL_CARD.md").read_text()
    scores = json.loads((job / "scores.json").read_text())
    for words in (
        "# resnet18, classification, challenge17", "Not a medical device",
        'Predictor.load("best_model.safetensors")', "| mean | 0.0075 |", "| fs | 250 Hz |",
        "A (atrial fibrillation), N (normal rhythm), O (other rhythm), ~ (too noisy)",
        "| labels | zip |", "| recordings, train | 36 |", "| derived_from | icentia11k |",
        "CC BY-NC-SA 4.0", "ODC-By 1.0", "**For non-commercial use only.**",
        f"| test f1 A | {scores['test']['f1']['A']:.6g} |", "| val ece |",
    ):  # fmt: skip
        assert words in text, words
    assert str(tmp_path) not in text and "| train" not in text


def test_pretraining_ends_with_a_card(cohort_folder, tmp_path):
    start = put_weights(tmp_path / "start", dataset="mine", derived_from=["x"])

    def pretrain(name, *flags):
        data = ["--train", cohort_folder, "--index", tmp_path / "index", "--task", "beat", *CPU]
        sizes = ["--frame-size", 256, "--batch-size", 8, "--steps-per-epoch", 2]
        job = ["--job-dir", tmp_path / name]
        assert command(pretraining.trainer.main, *data, *sizes, *job, *flags).code == 0
        metadata = read_weights(tmp_path / name / "weights.safetensors")[1]
        return metadata, (tmp_path / name / "MODEL_CARD.md").read_text()

    metadata, text = pretrain("a", "--val-patients", 2, "--val-size", 16, "--stages", 1)
    for words in (
        "| stages | 1 |", "| content | encoder |", 'load_encoder("weights.safetensors")',
        "| patients, train | 4 |", "| patients, validation | 2 |", "16 in 1 epochs",
        "| derived_from | random weights |", "non-commercial", "| validation loss |",
    ):  # fmt: skip
        assert words in text, words
    assert metadata.derived_from == []
    metadata, text = pretrain("b", "--val-patients", 0, "--weights-file", start)
    assert metadata.lineage == ["x", "mine", "icentia11k"]
    assert "| derived_from | x, mine |" in text and "## Scores\nNone." in text
    assert "- mine: no known public data set; further licences may apply." in text


def test_lineage():
    assert make_metadata(dataset="a+b", derived_from=[]).lineage == ["a", "b"]
    assert make_metadata(dataset="b", derived_from=["a", "b"]).lineage == ["a", "b"]
    header = json.loads(make_metadata(dataset="b").to_header()["contract"])
    del header["derived_from"]  # as in files from before there was a lineage
    metadata = Metadata.from_header({"contract": json.dumps(header)}, "x")
    assert metadata.lineage == ["unknown", "b"]
    assert "| derived_from | unknown |" in render("x", {}, metadata, {}, {})
    assert tuple(DATA_SETS["challenge17"].classes) == challenge17.CLASSES


def test_shipped_weights():
    assert [path.stem for path in SHIPPED] == ["af_resnet18", "encoder_resnet18"]
    for path in SHIPPED:
        assert path.stat().st_size <= 10e6
        sums = path.with_name("SHA256SUMS").read_text().splitlines()
        assert f"{sha256(path)}  {path.name}" in sums
        metadata, card = read_weights(path)[1], path.with_suffix(".md").read_text()
        assert all(name in card for name in [*metadata.lineage, "ODC-By 1.0", path.name])
        assert "Not a medical device" in card and not re.search(r"(^|\s|`)/\w+/", card)  # no paths
        kinds = {str(tensor.dtype) for tensor in read_tensors(path)[0].values()}
        assert kinds == {"torch.float16", "torch.float32"}
    assert load_encoder(SHIPPED[1]).metadata.lineage == ["mitdb"]
    assert Predictor.load(SHIPPED[0], device="cpu", precision="fp32")
    af = read_weights(SHIPPED[0])[1]
    assert (af.lineage, af.classes) == (["mitdb", "challenge17"], list("ANO~"))
    assert af.temperature != 1
