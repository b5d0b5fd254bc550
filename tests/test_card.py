"""Model cards, what a weights file is said to contain, and copies in half precision."""

import json
from dataclasses import replace

import pytest
import torch

import finetuning.trainer
import pretraining.trainer
import pretraining.utils
from finetuning.datasets import challenge17
from tests.helpers import command, contents, make_contract, put_weights
from utils import card, checkpoint, datasets, names
from utils.cli import UserError
from utils.contract import Contract
from utils.files import sha256
from utils.half import halved
from utils.weights import load_encoder, read_tensors, read_weights, save_tensors, save_weights

CPU = ["--device", "cpu", "--precision", "fp32", "--epochs", 1]
AF = {"task": "classification", "dataset": "challenge17", "classes": list("ANO~x")}


@pytest.fixture
def weights(tmp_path):
    """Fine-tuned ones, from others of Icentia11k."""
    return put_weights(tmp_path / "af.safetensors", **AF, derived_from=["icentia11k"])


def show(*flags) -> str:
    result = command(checkpoint.main, *flags)
    assert result.code == 0, result
    return result.out


def finetune(prepared, start, job):
    data = ["--train", prepared / "p_train.npz", "--test", prepared / "p_test.npz"]
    flags = ["--weights-file", start, "--job-dir", job, "--val-size", 0.25, *CPU]
    return command(finetuning.trainer.main, *data, *flags)


def test_fine_tuning_ends_with_a_card(prepared, tmp_path):
    start = put_weights(tmp_path / "start.safetensors", dataset="icentia11k", derived_from=[])
    assert finetune(prepared, start, tmp_path / "job").code == 0
    text = (tmp_path / "job/MODEL_CARD.md").read_text()
    scores = json.loads((tmp_path / "job/scores.json").read_text())
    for words in (
        "# resnet18, classification, challenge17", "Not a medical device",
        "A (atrial fibrillation), N (normal rhythm), O (other rhythm), ~ (too noisy)",
        'Predictor.load("best_model.safetensors")', "--weights best_model.safetensors RECORD",
        "# (samples,), at any rate",
        "250 Hz, mV", "minus 0.0075 mV, divided by 0.2373 mV", "512 samples (2.0 s)",
        "- **labels**: zip", "- **recordings, train**: 36\n", "- **recordings, test**: 12\n",
        "weights trained on icentia11k (the Icentia11k", "CC BY-NC-SA 4.0", "ODC-By 1.0",
        "for non-commercial use only**: they were made from icentia11k.",
        f"| macro F1 | {scores['val']['macro_f1']:.3f} | {scores['test']['macro_f1']:.3f} |",
        f"| F1 A | {scores['val']['f1']['A']:.3f} | {scores['test']['f1']['A']:.3f} |",
    ):  # fmt: skip
        assert words in text, words
    assert "| ECE |" in text and str(tmp_path) not in text


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
        "began with**: random weights", "non-commercial", "| loss |", "ignoring the signal",
    ):  # fmt: skip
        assert words in text, words
    assert read_weights(first / "weights.safetensors")[1].derived_from == []
    assert read_weights(second / "weights.safetensors")[1].lineage == ["x", "mine", "icentia11k"]
    text = (second / "MODEL_CARD.md").read_text()
    assert "weights trained on x, then mine" in text and "## Scores" not in text
    assert "- mine: no public data set known here; ask whoever gave the recordings." in text


def test_lineage():
    assert make_contract(dataset="b").lineage == ["unknown", "b"]
    assert make_contract(dataset="b", derived_from=[]).lineage == ["b"]
    assert make_contract(dataset="b", derived_from=["a", "b"]).lineage == ["a", "b"]
    for value in ("a", [1], ["a", "a"], {}):
        metadata = replace(make_contract(), derived_from=value).to_metadata()
        with pytest.raises(UserError, match="its contract says derived_from"):
            Contract.from_metadata(metadata, "x")
    before = json.loads(make_contract().to_metadata()["contract"])
    del before["derived_from"]
    read = Contract.from_metadata({"contract": json.dumps(before)}, "x")
    assert "began with**: not recorded" in card.render("x", {}, read, {}, {})
    assert "further licences may apply" in card.licence(read)


def test_every_public_data_set_has_a_licence():
    public = {*names.DATASETS, *names.DOWNLOADS} - {"table"}
    assert public == datasets.DATA_SETS.keys()
    assert tuple(datasets.DATA_SETS["challenge17"].classes) == challenge17.CLASSES
    assert "(not known here)" in datasets.licences(["table"])


def test_scores_that_there_are():
    scores = {"epoch": 3, "test": {"macro_f1": 0.5, "cinc3": None, "ece": 0.04, "new": [1]}}
    assert card.score_table(scores).splitlines()[2:] == ["| macro F1 | 0.500 |", "| ECE | 0.040 |"]
    assert not card.score_table({}) and not card.score_table({"epoch": 1})


def test_other_inputs():
    contract = make_contract(
        in_channels=2, mean=[0.5, -1e-3], sd=[1, 2.0], multi_label=True, temperature=1.25,
        spectrogram={"window": 256}, context={"ns": 4},
    )  # fmt: skip
    text = card.render("x", {"head.bias": torch.zeros(4)}, contract, {}, {})
    for words in ("minus 0.5, -0.001 mV, divided by 1, 2 mV", "any of a, b", "window 256", "ns 4",
                  "sigmoid of (logits / 1.25, the temperature)"):  # fmt: skip
        assert words in text
    own = card.render("x", {}, make_contract(mean=None, sd=None), {}, {})
    assert "each input by its own mean and deviation" in own and "features" in own


def test_what_a_file_contains(weights):
    out = show(weights)
    for words in (
        "resnet18, the first stages: 1, with its head", "A (atrial fibrillation)", "of float32",
        "icentia11k CC BY-NC-SA 4.0, challenge17 ODC-By 1.0; non-commercial use only",
        f"{weights.stat().st_size:,} bytes", sha256(weights),
    ):  # fmt: skip
        assert words in out, words
    assert "encoder.conv1" not in out
    assert "encoder.conv1.weight" in show(weights, "--tensors")


def test_files_that_are_something_else(tmp_path):
    text, foreign = tmp_path / "text", tmp_path / "foreign"
    text.write_text("no weights")
    command(checkpoint.main, text).refused("text", "not a readable safetensors file")
    for metadata, words in (
        ({}, "no contract"),
        ({"run": "{}"}, "no state of a run"),
        ({"run": "["}, "no state of a run"),
    ):
        save_tensors(foreign, {"x": torch.zeros(2)}, metadata)
        command(checkpoint.main, foreign).refused("foreign", words)
    command(checkpoint.main, tmp_path / "absent").refused("absent does not exist")
    save_weights(foreign, {"x\x1b[2J": torch.zeros(2)}, make_contract(dataset="\x1b[2J\n" * 9999))
    out = show(foreign, "--tensors")
    assert "\x1b" not in out and len(out) < 10_000


def test_half(weights, tmp_path):
    text = "# Title\n\nLoad af.safetensors.\n"
    (tmp_path / "MODEL_CARD.md").write_text(text)
    folder, (full, contract) = tmp_path / "weights", read_weights(weights)
    folder.mkdir()
    (folder / "SHA256SUMS").write_text(f"{'0' * 64}  z\n{'1' * 64} *half.safetensors\n")
    out = folder / "half.safetensors"
    assert "float16" in show(weights, "--half", out)
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    assert len(lines) == 2 and lines[1] == f"{'0' * 64}  z"
    assert lines[0] == f"{sha256(out)}  half.safetensors"  # as sha256sum writes it
    noted = (folder / "half.md").read_text()
    assert noted.startswith("# Title\n\nThe kernels are stored in half precision")
    assert "Load half.safetensors." in noted
    tensors, again = read_weights(out)
    assert again == contract and tensors.keys() == full.keys()
    stored = read_tensors(out)[0]
    for name, tensor in tensors.items():
        kernel = tensor.ndim > 1
        assert tensor.dtype == torch.float32
        assert stored[name].dtype == (torch.float16 if kernel else torch.float32)
        torch.testing.assert_close(tensor, full[name], rtol=2**-11, atol=2**-25 if kernel else 0)
    assert out.stat().st_size < 0.6 * weights.stat().st_size
    before = contents(folder)
    command(checkpoint.main, weights, "--half", out).refused("half.safetensors exists")
    assert contents(folder) == before
    show(out, "--half", out, "--overwrite")
    assert contents(folder) == before


def test_half_of_weights_without_a_card(weights, tmp_path):
    show(weights, "--half", tmp_path / "new/half.safetensors")
    text = (tmp_path / "new/half.md").read_text()
    assert 'Predictor.load("half.safetensors")' in text and "non-commercial" in text


def test_what_half_precision_cannot_hold_stays():
    ones = torch.ones(2, 3)
    for kept in (ones * 1e5, ones * 1e30, ones * 1e-6, ones * torch.nan, torch.ones(3)):
        assert halved(kept).dtype == torch.float32
    few = ones.clone()
    few[0, 0] = 1e-9  # lost, where the others are a billion times as large
    for fit in (ones * 65504, ones * 2**-14, ones * 0, few):
        assert halved(fit).dtype == torch.float16


def test_training_starts_from_half_precision(prepared, weights, tmp_path):
    half = tmp_path / "half.safetensors"
    show(weights, "--half", half)
    assert load_encoder(half).encoder.conv1.weight.dtype == torch.float32
    assert finetune(prepared, half, tmp_path / "job").code == 0
    lineage = read_weights(tmp_path / "job/best_model.safetensors")[1].lineage
    assert lineage == ["icentia11k", "challenge17"]


def test_cards_beside_stripped_weights(weights, tmp_path):
    out = tmp_path / "encoder.safetensors"
    flags = ["--checkpoint", weights, "--out", out]
    assert command(pretraining.utils.main, *flags).code == 0
    text = (tmp_path / "encoder.md").read_text()
    assert 'load_encoder("encoder.safetensors")' in text and "the encoder alone" in text
    out.unlink()
    command(pretraining.utils.main, *flags).refused("encoder.md exists", "--overwrite")
    assert command(pretraining.utils.main, *flags, "--overwrite").code == 0
    command(pretraining.utils.main, *flags[:3], tmp_path / "x.md").refused("x.md", ".safetensors")
