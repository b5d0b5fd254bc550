"""What goes beyond the paper: each option does what it says, and nothing by default."""

import argparse
import copy
import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from finetuning import balance, run, trainer
from finetuning.augmentation import KEPT, NOISE_MV, SCALE, WANDER_MV, augment, crop_and_move
from finetuning.batches import batches, pad_recordings
from finetuning.data import Data
from finetuning.mixup import mix
from finetuning.normalising import normalise
from finetuning.optimisation import attend, make_optimizer
from finetuning.predict.predictor import Predictor
from finetuning.prepared_set import load_prepared
from finetuning.shifting import STEP, over_shifts
from finetuning.stream import stream, training_loss
from finetuning.targets import MULTI_LABEL, SINGLE_LABEL
from recordings.formats import read_recording
from tests.helpers import LONG_RUN, command, make_classifier, make_contract, put_weights
from utils import averaging, presets, schedule
from utils.distributed import ALONE, Processes
from utils.engine import Hardware, hits
from utils.run import Log
from utils.standardising import moments
from utils.training import Training
from utils.weights import read_weights

CPU = torch.device("cpu")
FS, PAD = 250, 512
PLAIN = {
    "seed": 0, "epochs": 4, "batch_size": 16, "lr": 0.1, "schedule": "constant", "warmup": 0,
    "weight_decay": 0.0, "ema": 0.0, "augment": False, "balance": "none", "mixup": 0.0,
    "standardise": "dataset", "tta": 1, "sync_bn": False, "compile": None, "checkpoint_every": None,
    "resume": False, "job_dir": None,
}  # fmt: skip
COUNTS = (4, 30, 12, 2)


def flags(**changes):
    return argparse.Namespace(**PLAIN | changes)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def data(prepared):
    train = load_prepared(prepared / "p_train.npz")
    recordings = pad_recordings(train, np.arange(len(train)), None, CPU)
    return Data({"train": recordings}, train.manifest, SINGLE_LABEL)


@pytest.fixture
def padded():
    """Recordings of 400, 100 and 512 samples that count up from 1, and what of them is signal."""
    places = torch.arange(PAD)
    inside = places >= PAD - torch.tensor([400, 100, PAD])[:, None, None]
    return torch.cumsum(inside.float(), -1), inside


def test_rate_by_step():
    rates = [schedule.rate(step, 110, "cosine", 10) for step in range(111)]
    assert rates[:10] == [(step + 1) / 11 for step in range(10)]
    assert rates[10] == 1 and rates[60] == pytest.approx(0.5) and rates[110] == 0
    assert rates[35] == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    assert all(later < earlier for earlier, later in pairwise(rates[10:]))
    assert [schedule.rate(step, 9, "constant", 1) for step in range(3)] == [0.5, 1, 1]
    assert schedule.rate(0, 1, "cosine", 0) == 1
    assert [schedule.warmup_steps(warmup, 200) for warmup in (0, 0.05, 1, 30)] == [0, 10, 1, 30]


def trained(args, steps=3, seen=lambda training: None):
    """A training whose optimiser has made so many steps, two to an epoch."""
    training = Training(
        args, make_classifier(), None, make_contract(), Hardware(CPU, False), ALONE, Log(Path())
    )
    training.optimizer = make_optimizer(args, training.model)
    attend(training, 2)
    x, rng = torch.ones(4, 1, 64), generator(1)
    for step in range(steps):
        training.epoch, training.totals.step = step // 2 + 1, step % 2
        training.optimizer.zero_grad()
        noise = torch.randn(x.shape, generator=rng)
        F.cross_entropy(training.model(x + noise), torch.arange(4)).backward()
        training.optimizer.step()
        seen(training)
    return training


def test_the_optimiser_follows_the_schedule():
    rates = []
    args = flags(schedule="cosine", warmup=2)
    trained(args, 8, lambda training: rates.append(training.optimizer.param_groups[0]["lr"]))
    assert rates == [0.1 * schedule.rate(step, 8, "cosine", 2) for step in range(8)]


def test_only_kernels_decay():
    model = make_classifier()
    before = copy.deepcopy(model.state_dict())
    optimizer = make_optimizer(flags(weight_decay=0.5), model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        kernel = name.endswith("weight") and parameter.ndim > 1
        torch.testing.assert_close(parameter.detach(), before[name] * (0.95 if kernel else 1))
    decayed = {p.ndim > 1 for p in optimizer.param_groups[0]["params"]}
    assert decayed == {True} and type(make_optimizer(flags(), model)) is torch.optim.Adam


def test_the_average_is_that_of_the_weights():
    states = [copy.deepcopy(make_classifier().state_dict())]
    args = flags(ema=0.25, lr=0.01)
    training = trained(args, 3, lambda t: states.append(copy.deepcopy(t.model.state_dict())))
    expected = states[0]
    for number, state in enumerate(states[1:], 1):
        decay = min(0.25, (1 + number) / (10 + number))
        assert averaging.decay_at(number, 0.25) == decay
        expected = {
            name: decay * expected[name] + (1 - decay) * value
            if value.is_floating_point()
            else value
            for name, value in state.items()
        }
    assert training.judged is training.modules["average"] is not training.model
    found = training.judged.state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
    assert not torch.equal(found["head.weight"], states[-1]["head.weight"])
    assert averaging.decay_at(10**6, 0.999) == 0.999


def test_without_an_average_the_model_is_judged():
    training = trained(flags(), 1)
    assert training.judged is training.model and list(training.modules) == ["model"]


def test_a_stretch_of_each_recording_anywhere(padded):
    millivolt, inside = padded
    places = set()
    for seed in range(50):
        moved, taken = crop_and_move(millivolt, inside, generator(seed))
        for row, mask, valid in zip(moved[:, 0], taken[:, 0], inside.sum(-1), strict=True):
            kept = int(mask.sum())
            assert math.floor(KEPT * valid) <= kept <= valid
            first = int(mask.nonzero()[0])
            assert mask[first : first + kept].all()  # in one piece
            stretch = row[mask]
            assert torch.equal(stretch, stretch[0] + torch.arange(kept))
            assert stretch[0] >= 1 and stretch[-1] <= valid
        places.add(int(taken[1, 0].nonzero()[0]))
    assert len(places) > 30 and min(places) < 60 and max(places) > PAD - 160


def test_augmentation_is_bounded_and_the_padding_stays_zero(padded):
    millivolt, inside = torch.ones_like(padded[0]), padded[1]
    signs = set()
    for seed in range(20):
        changed, taken = augment(millivolt, inside, FS, generator(seed))
        middle = (changed * taken).sum(-1) / taken.sum(-1)
        assert (middle.abs() < SCALE + WANDER_MV + NOISE_MV).all()
        assert (middle.abs() > 1 / SCALE - WANDER_MV - NOISE_MV).all()
        assert ((changed * taken).abs().amax(-1) < SCALE + WANDER_MV + 6 * NOISE_MV).all()
        signs |= set(middle.sign().flatten().tolist())
        x = normalise(changed, taken, 0.0075, 0.2373)
        assert not x[~taken].any() and x.isfinite().all()
    assert signs == {-1, 1}


def test_a_batch_of_the_challenge():
    """64 recordings of 9 to 61 s, padded to 16,384 samples."""
    valid = torch.linspace(9, 61, 64).mul(FS).long()[:, None, None]
    inside = torch.arange(16384) >= 16384 - valid
    noise = torch.randn(64, 1, 16384, generator=generator(1))
    changed, taken = augment(noise * inside, inside, FS, generator())
    kept = taken.sum(-1, keepdim=True)
    assert changed.isfinite().all() and ((kept >= KEPT * valid) & (kept <= valid)).all()
    x = normalise(changed, taken, None, None)
    assert not x[~taken].any()
    torch.testing.assert_close(x.square().sum(-1, keepdim=True) / kept, torch.ones(64, 1, 1))


def test_several_leads_keep_their_signs(padded):
    millivolt = torch.ones(3, 12, PAD)
    for seed in range(10):
        changed, taken = augment(millivolt, padded[1], FS, generator(seed))
        assert changed.shape == millivolt.shape
        assert ((changed * taken).sum(-1) / taken.sum(-1) > 0).all()


def read(args, data, epoch, done=0, processes=ALONE):
    return list(stream(args, data, processes).batches(epoch, done))


@pytest.mark.parametrize("changes", [{"augment": True}, {"mixup": 0.4}, {"augment": 1, "mixup": 1}])
def test_variation_follows_from_seed_epoch_and_step(data, changes):
    args = flags(**changes)
    found = read(args, data, 2)
    assert [len(batch.labels) for batch in found] == [16, 16, 16]
    for done in range(4):  # as if continued after so many steps
        for batch, expected in zip(read(args, data, 2, done), found[done:], strict=True):
            assert torch.equal(batch.inputs, expected.inputs)
            assert torch.equal(batch.labels, expected.labels)
    shares = [read(args, data, 2, 0, Processes(rank, 2)) for rank in range(2)]
    for whole, *halves in zip(found, *shares, strict=True):
        for rank, half in enumerate(halves):
            assert half.total == 16
            assert torch.equal(half.inputs, whole.inputs[rank::2])
            assert torch.equal(half.labels, whole.labels[rank::2])
    for other in (read(args, data, 3), read(flags(**changes, seed=1), data, 2)):
        assert not torch.equal(other[0].inputs, found[0].inputs)


def test_mixed_recordings_and_their_loss(data):
    x, y = torch.randn(6, 1, 8, generator=generator()), torch.tensor([0, 1, 2, 3, 0, 1])
    soft = SINGLE_LABEL.soften(y, list("ANO~"))
    mixed, labels = mix(x, soft, 0.3, np.random.default_rng(5))
    rng = np.random.default_rng(5)
    own = max(share := rng.beta(0.3, 0.3), 1 - share)
    partner = rng.permutation(6)
    torch.testing.assert_close(mixed, own * x + (1 - own) * x[partner])
    logits = torch.randn(6, 4, generator=generator())
    expected = own * F.cross_entropy(logits, y) + (1 - own) * F.cross_entropy(logits, y[partner])
    torch.testing.assert_close(SINGLE_LABEL.loss(logits, labels), expected)
    assert torch.equal(SINGLE_LABEL.harden(labels), y)
    several = torch.tensor([[1.0, 0, 1, 0]])
    assert torch.equal(MULTI_LABEL.harden(MULTI_LABEL.soften(several, []) * 0.7), several)
    right = stream(flags(mixup=1.0), data, ALONE).right_answers
    assert right(logits, labels) == hits(logits, y)


def test_balanced_classes():
    y = np.eye(4, dtype=np.uint8)[np.repeat(range(4), COUNTS)]
    weights = balance.class_weights(y)
    np.testing.assert_allclose(weights * COUNTS, sum(COUNTS) / 4)
    drawn = np.concatenate([balance.draw(y, np.random.default_rng(n)) for n in range(200)])
    assert drawn.shape == (200 * len(y),)
    np.testing.assert_allclose(np.bincount(y[drawn].argmax(1)) / len(drawn), 0.25, atol=0.02)
    assert balance.class_weights(y[:, [0, 1, 2, 3, 3]] * [1, 1, 1, 1, 0])[4] == 0


def test_sampling_draws_the_order(data):
    classes = torch.cat([batch.labels for batch in read(flags(balance="sampling"), data, 1)])
    assert len(classes) == len(data.parts["train"])
    assert torch.bincount(classes, minlength=4).min() >= 4  # of a dozen each
    plain = torch.cat([batch.labels for batch in read(flags(), data, 1)])
    assert torch.bincount(plain).tolist() == data.parts["train"].y.sum(0).tolist()


def test_weighted_loss(data):
    y = data.parts["train"].y
    loss = training_loss(flags(balance="loss"), data)
    labels = torch.from_numpy(y.argmax(1))
    logits = torch.randn(len(y), 4, generator=generator())
    each = F.cross_entropy(logits, labels, reduction="none").numpy()
    by_class = [each[y[:, number] == 1].mean() for number in range(4)]
    assert loss(logits, labels).item() == pytest.approx(np.mean(by_class), rel=1e-5)
    soft = F.one_hot(labels, 4).float()
    torch.testing.assert_close(loss(logits, soft), loss(logits, labels))
    assert training_loss(flags(), data) is F.cross_entropy


def test_each_recording_by_its_own_mean_and_deviation(prepared):
    train = load_prepared(prepared / "p_train.npz")
    own = pad_recordings(train, np.arange(3), None, CPU, standardised=True)
    valid = own.valid[:] = torch.tensor([300, 7, PAD])
    ((x, *_),) = batches(own, 3)
    for row, length in zip(x[:, 0], valid, strict=False):
        assert not row[: PAD - length].any()
        assert row[PAD - length :].mean().item() == pytest.approx(0, abs=1e-5)
        assert row[PAD - length :].std(correction=0).item() == pytest.approx(1, abs=1e-4)


def test_a_constant_signal_becomes_zeros():
    x = torch.full((2, 1, 9), 0.5)
    assert not normalise(x, torch.ones(9, dtype=torch.bool), None, None).any()
    assert [value.shape for value in moments(x)] == [(2, 1, 1)] * 2


def test_answers_are_averaged_over_shifts():
    model = make_classifier().eval()
    x = torch.randn(2, 1, 256, generator=generator())
    with torch.no_grad():
        moved = [F.pad(x[..., n * STEP :], (0, n * STEP)) for n in range(3)]
        expected = sum(map(model, moved)) / 3
        torch.testing.assert_close(over_shifts(model, 3)(x), expected)
    assert over_shifts(model, 1) is model


@pytest.fixture(scope="module")
def job(prepared, tmp_path_factory):
    """A run with everything."""
    root = tmp_path_factory.mktemp("recipe")
    recipe = [*LONG_RUN, "--mixup", 0.2, "--balance", "sampling", "--tta", 2]
    sets = ["--train", prepared / "p_train.npz", "--test", prepared / "p_test.npz"]
    small = ["--epochs", 2, "--batch-size", 16, "--val-size", 0.25, "--device", "cpu"]
    weights = ["--weights-file", put_weights(root / "weights"), "--precision", "fp32"]
    result = command(
        trainer.main, *sets, *small, *weights, *recipe, "--standardise", "recording",
        "--job-dir", root / "job",
    )  # fmt: skip
    assert result.code == 0, result
    return root / "job"


def test_a_run_with_everything(job):
    arguments = json.loads((job / "args.json").read_text())["arguments"]
    assert (arguments["schedule"], arguments["ema"], arguments["augment"]) == (
        "cosine",
        0.999,
        True,
    )
    history = pd.read_csv(job / "history.csv")
    assert len(history) == 2 and history.notna().all(axis=None)
    assert history["acc"].between(0, 1).all()
    contract = read_weights(job / run.BEST)[1]
    assert contract.mean is None and contract.sd is None


def test_the_predictor_standardises_and_shifts_alike(job, prepared):
    predictor = Predictor.load(
        job / run.BEST, device="cpu", precision="fp32", tta=2, band_pass=False
    )
    table = pd.read_csv(job / "test_predictions.csv", dtype={"record_name": str})
    columns = [name for name in table if name.startswith("prob_")]
    for name, *expected in table[["record_name", *columns]].itertuples(index=False):
        recording = read_recording(prepared.parent / "source" / f"{name}.hea")
        (found,) = predictor.members[0].probabilities([recording.signal], recording.fs)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    (louder,) = predictor.members[0].probabilities([recording.signal * 2], recording.fs)
    np.testing.assert_allclose(louder, found, atol=0.02)  # rounded to microvolt


def test_each_can_be_turned_off_again(monkeypatch):
    off = ["--warmup", 0, "--weight-decay", 0, "--ema", 0, "--no-augment", "--schedule", "constant"]
    needed = ["--job-dir", "job", "--train", __file__, "--preset"]

    def parsed(*flags):
        monkeypatch.setattr("sys.argv", list(map(str, ["command", *needed, *flags])))
        return vars(trainer.parse_arguments())

    assert presets.FINETUNING["recommended"].items() <= parsed("recommended").items()
    plain = parsed("recommended", *LONG_RUN, *off)
    assert plain | {"preset": "paper"} == parsed("paper", "--stop-metric", "val_loss")


def test_several_labels_cannot_be_balanced(prepared, tmp_path):
    for path in prepared.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    manifest = json.loads((tmp_path / "p_manifest.json").read_text())
    (tmp_path / "p_manifest.json").write_text(json.dumps(manifest | {"multi_label": True}))
    sets = ["--train", tmp_path / "p_train.npz", "--job-dir", tmp_path / "job"]
    command(trainer.main, *sets, "--balance", "loss").refused("--balance", "several classes")
    more = ["--mixup", 0.2, "--augment", "--epochs", 1, "--stages", 1, "--device", "cpu"]
    assert command(trainer.main, *sets, *more).code == 0
