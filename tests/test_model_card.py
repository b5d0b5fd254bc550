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
from utils.weights import load_encoder, read_weights, store_half

CPU = ["--device", "cpu", "--precision", "fp32", "--epochs", 1]


def assert_all(words, text):
    assert [part for part in words if part not in text] == []


def test_fine_tuning_ends_with_a_card(prepared, tmp_path):
    start, job = tmp_path / "half.safetensors", tmp_path / "job"
    store_half(put_weights(tmp_path / "start", dataset="icentia11k", derived_from=[]), start)
    data = ["--train", prepared / "p_train.npz", "--test", prepared / "p_test.npz"]
    flags = ["--weights-file", start, "--val-size", 0.25, "--job-dir", job, *CPU]
    assert command(finetuning.trainer.main, *data, *flags).code == 0
    assert read_weights(job / "best_model.safetensors")[1].lineage == ["icentia11k", "challenge17"]
    text = (job / "MODEL_CARD.md").read_text()
    scores = json.loads((job / "scores.json").read_text())
    assert_all([
        "# resnet18, classification, challenge17", "Not a medical device",
        'Predictor.load("best_model.safetensors")', "- mean: 0.0075\n", "- fs: 250 Hz\n",
        "- resampling: polyphase\n", "- padtype: constant\n",
        "A (atrial fibrillation), N (normal rhythm), O (other rhythm), ~ (too noisy)",
        "- labels: zip\n", "- recordings, train: 36\n", "- derived_from: icentia11k\n",
        "CC BY-NC-SA 4.0", "ODC-By 1.0", "**For non-commercial use only.**",
        f"- test f1 A: {scores['test']['f1']['A']:.6g}\n", "- val ece: ",
    ], text)  # fmt: skip
    assert str(tmp_path) not in text and "- train" not in text


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
    assert_all([
        "- stages: 1\n", "- content: encoder\n", 'load_encoder("weights.safetensors")',
        "- patients, train: 4\n", "- patients, validation: 2\n", "16 in 1 epochs",
        "- derived_from: random weights\n", "non-commercial", "- validation loss: ",
    ], text)  # fmt: skip
    assert metadata.derived_from == [] and "padtype" not in text
    metadata, text = pretrain("b", "--val-patients", 0, "--weights-file", start)
    assert metadata.lineage == ["x", "mine", "icentia11k"]
    assert "- derived_from: x, mine\n" in text and "## Scores\nNone." in text
    assert "- mine: no known public data set; further licences may apply." in text


def test_lineage():
    assert make_metadata(dataset="a+b", derived_from=[]).lineage == ["a", "b"]
    assert make_metadata(dataset="b", derived_from=["a", "b"]).lineage == ["a", "b"]
    header = json.loads(make_metadata(dataset="b").to_header()["contract"])
    del header["derived_from"]  # as in files from before there was a lineage
    metadata = Metadata.from_header({"contract": json.dumps(header)}, "x")
    assert metadata.lineage == ["unknown", "b"]
    assert "- derived_from: unknown\n" in render("x", {}, metadata)
    assert tuple(DATA_SETS["challenge17"].classes) == challenge17.CLASSES


def test_shipped_weights():
    paths = sorted((ROOT / "weights").glob("*.safetensors"))
    assert [path.stem for path in paths] == ["af_resnet18", "encoder_resnet18"]
    for path in paths:
        assert path.stat().st_size <= 10e6  # in half precision
        sums = path.with_name("SHA256SUMS").read_text().splitlines()
        assert f"{sha256(path)}  {path.name}" in sums
        metadata, card = read_weights(path)[1], path.with_suffix(".md").read_text()
        assert_all([*metadata.lineage, "ODC-By 1.0", path.name, "Not a medical device"], card)
        assert not re.search(r"(^|\s|`)/\w+/", card)  # no paths
    assert load_encoder(paths[1]).metadata.lineage == ["mitdb"]
    assert Predictor.load(paths[0], device="cpu", precision="fp32")
    af = read_weights(paths[0])[1]
    assert (af.lineage, af.classes) == (["mitdb", "challenge17"], list("ANO~"))
    assert af.temperature != 1
