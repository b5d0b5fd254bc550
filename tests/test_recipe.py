"""What goes beyond the paper: each option does what it says, and nothing by default."""

import copy
import math
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from finetuning import recipe, trainer
from finetuning.batches import batches, load_parts, normalize, to_device
from finetuning.evaluation import MULTI_LABEL, SINGLE_LABEL
from finetuning.predict import Predictor
from finetuning.prepared_set import load_prepared
from recordings.formats import read_recording
from tests.helpers import LONG_RUN, command, make_classifier, put_weights
from utils.distributed import ALONE, Processes
from utils.engine import average_weights
from utils.files import read_json, write_json
from utils.weights import read_weights

CPU, FS, PAD, COUNTS = torch.device("cpu"), 250, 512, (4, 30, 12, 2)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def recordings(prepared):
    return load_parts({"train": prepared / "p_train.npz"}, CPU)[0]["train"]


@pytest.fixture
def padded():
    """Recordings of 400, 100 and 512 samples that count up from 1, and what of them is signal."""
    places = torch.arange(PAD)
    mask = places >= PAD - torch.tensor([400, 100, PAD])[:, None, None]
    return torch.cumsum(mask.float(), -1), mask


def test_learning_rate_by_step():
    rates = [recipe.learning_rate_factor(step, 110, "cosine", 10) for step in range(111)]
    falling = (1 + np.cos(np.linspace(0, np.pi, 101))) / 2
    assert rates == pytest.approx([*np.arange(1, 11) / 11, *falling])
    assert recipe.learning_rate_factor(0, 1, "cosine", 0) == 1
    for warmup, steps in ((0, 0), (0.05, 10), (1, 1), (30, 30)):
        rates = [recipe.learning_rate_factor(step, 200, "constant", warmup) for step in range(200)]
        assert sum(rate < 1 for rate in rates) == steps


def test_the_average_is_that_of_the_weights():
    model = make_classifier()
    average = average_weights(model, 0.25)
    expected = copy.deepcopy(model.state_dict())
    for steps in range(1, 4):
        with torch.no_grad():
            for value in model.state_dict().values():
                value += 1
        average.update_parameters(model)
        decay = min(0.25, (1 + steps) / (10 + steps))
        for name, value in model.state_dict().items():
            mean = decay * expected[name] + (1 - decay) * value
            expected[name] = mean if value.is_floating_point() else value.clone()
    for name, value in average.module.state_dict().items():
        torch.testing.assert_close(value, expected[name])


def test_only_kernels_decay():
    model = make_classifier()
    before = copy.deepcopy(model.state_dict())
    optimizer = recipe.make_optimizer(model, 0.1, weight_decay=0.5)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        kernel = name.endswith("weight") and parameter.ndim > 1
        torch.testing.assert_close(parameter.detach(), before[name] * (0.95 if kernel else 1))
    assert type(recipe.make_optimizer(model, 0.1)) is torch.optim.Adam


def test_a_stretch_of_each_recording_anywhere(padded):
    x, mask = padded
    places = set()
    for seed in range(50):
        moved, new_mask = recipe.crop_and_move(x, mask, generator(seed))
        for row, inside, length in zip(moved[:, 0], new_mask[:, 0], mask.sum(-1), strict=True):
            values, (first, *_, last) = row[inside], inside.nonzero()[:, 0].tolist()
            assert math.floor(recipe.MIN_CROP * length) <= len(values) <= length
            assert len(values) == last + 1 - first  # in one piece
            assert torch.equal(values, values[0] + torch.arange(len(values)))
            assert values[0] >= 1 and values[-1] <= length
        places.add(int(new_mask[1, 0].nonzero()[0]))
    assert len(places) > 30 and min(places) < 60 and max(places) > PAD - 160


def test_augmentation_is_bounded_and_the_padding_stays_zero(padded):
    x, mask = torch.ones_like(padded[0]), padded[1]
    signs, added = set(), recipe.MAX_WANDER_MV + recipe.MAX_NOISE_MV
    for seed in range(20):
        changed, inside = recipe.augment(x, mask, FS, generator(seed))
        mean = (changed * inside).sum(-1) / inside.sum(-1)
        assert (mean.abs() < recipe.MAX_SCALE + added).all()
        assert (mean.abs() > 1 / recipe.MAX_SCALE - added).all()
        assert (changed * inside).abs().max() < recipe.MAX_SCALE + 2 * added
        signs |= set(mean.sign().flatten().tolist())
        for moments in ((0.0075, 0.2373), (None, None)):
            normalized = normalize(changed, inside, *moments)
            assert not normalized[~inside].any() and normalized.isfinite().all()
        several, inside = recipe.augment(x.expand(3, 12, PAD), mask, FS, generator(seed))
        assert ((several * inside).sum(-1) > 0).all()  # only one lead alone changes its sign
    assert signs == {-1, 1}


@pytest.mark.parametrize(
    "changes", [{"augmented": True}, {"mixup": 0.4}, {"augmented": True, "mixup": 1.0}]
)
def test_variation_follows_from_seed_epoch_and_step(recordings, changes):
    def read(epoch, done=0, seed=0, processes=ALONE):
        made = recipe.TrainingBatches(recordings, 16, seed, FS, processes=processes, **changes)
        assert len(made) == 3
        return list(made.epoch(epoch, done))

    whole = read(2)
    assert [len(batch.labels) for batch in whole] == [16, 16, 16]
    for done in range(4):  # as if resumed after so many steps
        for batch, expected in zip(read(2, done), whole[done:], strict=True):
            assert torch.equal(batch.inputs, expected.inputs)
            assert torch.equal(batch.labels, expected.labels)
    halves = [read(2, processes=Processes(rank, 2)) for rank in range(2)]
    for batch, *shares in zip(whole, *halves, strict=True):
        for rank, share in enumerate(shares):
            assert share.total == 16
            assert torch.equal(share.inputs, batch.inputs[rank::2])
            assert torch.equal(share.labels, batch.labels[rank::2])
    for other in (read(3), read(2, seed=1)):
        assert not torch.equal(other[0].inputs, whole[0].inputs)


def test_mixed_recordings_and_their_loss():
    x, y = torch.randn(6, 1, 8, generator=generator()), torch.tensor([0, 1, 2, 3, 0, 1])
    mixed, labels = recipe.mix(x, y, 4, 0.3, np.random.default_rng(5))
    rng = np.random.default_rng(5)
    own = max(share := rng.beta(0.3, 0.3), 1 - share)
    partner = rng.permutation(6)
    torch.testing.assert_close(mixed, own * x + (1 - own) * x[partner])
    logits = torch.randn(6, 4, generator=generator())
    expected = own * F.cross_entropy(logits, y) + (1 - own) * F.cross_entropy(logits, y[partner])
    torch.testing.assert_close(SINGLE_LABEL.loss(logits, labels), expected)
    for given in (y, labels):  # the larger part of a mixture counts
        assert SINGLE_LABEL.num_correct(logits, given) == (logits.argmax(1) == y).sum()
    several, signs = torch.tensor([[1.0, 0, 1, 0], [1, -1, -1, -1]]).split(1)
    for share in (1, 0.7):
        assert MULTI_LABEL.num_correct(signs, several * share) == 0.75


def test_the_order_is_a_permutation_or_balanced(recordings):
    plain = recipe.TrainingBatches(recordings, 20, 0, FS)
    assert sorted(plain.order(1)) == list(range(48))
    assert list(plain.order(1)) != list(plain.order(2))
    names = recordings.record_ids[plain.order(1)].tolist()
    assert plain.names(1, 2) == names[20:40] and plain.names(1, 3) == names[40:48]
    second = replace(plain, processes=Processes(1, 5))
    assert second.names(1, 2) == names[21:40:5]
    y = np.eye(4, dtype=np.uint8)[np.repeat(range(4), COUNTS)]
    np.testing.assert_allclose(recipe.class_weights(y) * COUNTS, sum(COUNTS) / 4)
    assert recipe.class_weights(y[:, [0, 1, 2, 3, 3]] * [1, 1, 1, 1, 0])[4] == 0
    balanced = recipe.TrainingBatches(replace(recordings, y=y), 16, 0, FS, balanced=True)
    drawn = np.stack([balanced.order(epoch) for epoch in range(200)])
    np.testing.assert_allclose(np.bincount(y[drawn.ravel()].argmax(1)) / 9600, 0.25, atol=0.02)


def test_weighted_loss(recordings):
    loss, y = recipe.weighted_cross_entropy(recordings), recordings.y
    labels = torch.from_numpy(y.argmax(1))
    logits = torch.randn(len(y), 4, generator=generator())
    each = F.cross_entropy(logits, labels, reduction="none").numpy()
    by_class = [each[y[:, number] == 1].mean() for number in range(4)]
    assert loss(logits, labels).item() == pytest.approx(np.mean(by_class), rel=1e-5)
    torch.testing.assert_close(loss(logits, F.one_hot(labels, 4).float()), loss(logits, labels))


def test_each_recording_by_its_own_mean_and_deviation(prepared):
    train = load_prepared(prepared / "p_train.npz")
    own = to_device(train, np.arange(3), CPU, per_recording=True)
    lengths = own.lengths[:] = torch.tensor([300, 7, PAD])
    ((x, *_),) = batches(own, 3)
    for row, length in zip(x[:, 0], lengths, strict=False):
        assert not row[: PAD - length].any()
        assert row[PAD - length :].mean().item() == pytest.approx(0, abs=1e-5)
        assert row[PAD - length :].std(correction=0).item() == pytest.approx(1, abs=1e-4)
    constant = torch.full((2, 1, 9), 0.5)
    assert not normalize(constant, torch.ones(2, 1, 9, dtype=torch.bool), None, None).any()


def test_predictions_are_averaged_over_shifts():
    model = make_classifier().eval()
    x = torch.randn(2, 1, 256, generator=generator())
    with torch.no_grad():
        moved = [F.pad(x[..., n * recipe.SHIFT :], (0, n * recipe.SHIFT)) for n in range(3)]
        expected = sum(map(model, moved)) / 3
        torch.testing.assert_close(recipe.ShiftAverage(model, 3)(x), expected)
        assert torch.equal(recipe.ShiftAverage(model, 1)(x), model(x))


def test_a_run_with_everything(prepared, tmp_path):
    """Its weights file brings what the predictor needs to give the same probabilities."""
    flags = [*LONG_RUN, "--mixup", 0.2, "--balance", "sampling", "--standardise", "recording"]
    sets = ["--train", prepared / "p_train.npz", "--test", prepared / "p_test.npz"]
    small = ["--epochs", 2, "--batch-size", 16, "--val-size", 0.25, "--device", "cpu"]
    weights = ["--weights-file", put_weights(tmp_path / "weights"), "--precision", "fp32"]
    job = tmp_path / "job"
    result = command(trainer.main, *sets, *small, *weights, *flags, "--tta", 2, "--job-dir", job)
    assert result.code == 0, result
    assert pd.read_csv(job / "history.csv")["acc"].between(0, 1).tolist() == [True, True]
    best = job / "best_model.safetensors"
    assert read_weights(best)[1].mean is read_weights(best)[1].sd is None
    predictor = Predictor.load(best, device="cpu", precision="fp32", tta=2, band_pass=False)
    table = pd.read_csv(job / "test_predictions.csv", dtype={"record_name": str})
    columns = [name for name in table if name.startswith("prob_")]
    for name, *expected in table[["record_name", *columns]].itertuples(index=False):
        recording = read_recording(prepared.parent / "source" / f"{name}.hea")
        (found,) = predictor.networks[0].probabilities([recording.signal], recording.fs)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_several_labels_cannot_be_balanced(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    manifest = tmp_path / "p_manifest.json"
    write_json(manifest, read_json(manifest) | {"multi_label": True})
    sets = ["--train", tmp_path / "p_train.npz", "--job-dir", tmp_path / "job"]
    command(trainer.main, *sets, "--balance", "loss").refused("--balance", "several classes")
    more = ["--mixup", 0.2, "--augment", "--epochs", 1, "--stages", 1, "--device", "cpu"]
    assert command(trainer.main, *sets, *more).code == 0
