"""The temperature of the probabilities."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from finetuning import evaluation
from finetuning.evaluation import MAX_TEMPERATURE, MIN_TEMPERATURE, MULTI_LABEL, SINGLE_LABEL


@pytest.mark.parametrize("targets", [SINGLE_LABEL, MULTI_LABEL])
@pytest.mark.parametrize("factor", [0.5, 1, 3])
def test_a_known_temperature_is_found(targets, factor):
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(0, 2, (5000, 4))).float()
    prob = targets.probabilities(logits).numpy()
    if targets is MULTI_LABEL:  # labels are drawn with their probabilities
        labels = torch.from_numpy((rng.random(prob.shape) < prob).astype(np.float32))
    else:
        labels = torch.from_numpy((rng.random((5000, 1)) > prob.cumsum(1)[:, :3]).sum(1))
    logits *= factor
    temperature = evaluation.fit_temperature(logits, labels, targets.loss)
    assert temperature == pytest.approx(factor, rel=0.06)
    for change in (0.97, 1.03):  # the minimum of the loss, but for the prior of one recording
        other = targets.loss(logits / (temperature * change), labels)
        assert targets.loss(logits / temperature, labels) < other


@pytest.mark.parametrize(("logits", "labels", "least", "most"), [
    (torch.zeros(8, 4), torch.arange(8) % 4, 1, 1),  # equal
    (torch.eye(4) * 5, torch.arange(4), 0.5, 1),  # right
    (torch.eye(4) * 5, (torch.arange(4) + 1) % 4, 2, MAX_TEMPERATURE),  # wrong
    (torch.tensor([[1.0, 0, 0, 0]]), torch.tensor([0]), 0.3, 1),
    (torch.eye(4).repeat(500, 1) * 1e4, torch.arange(4).repeat(500), MIN_TEMPERATURE, 1),
    (torch.eye(4).repeat(500, 1) * -1e4, torch.arange(4).repeat(500), 19.9, MAX_TEMPERATURE),
])  # fmt: skip
def test_few_or_extreme_recordings_give_a_bounded_temperature(logits, labels, least, most):
    assert least <= evaluation.fit_temperature(logits, labels, SINGLE_LABEL.loss) <= most
    temperature = evaluation.fit_temperature(logits, F.one_hot(labels, 4).float(), MULTI_LABEL.loss)
    assert MIN_TEMPERATURE <= temperature <= MAX_TEMPERATURE


@pytest.mark.parametrize(
    ("scale", "wrong", "count", "kept", "note"),
    [(4, 0, 1, 1, "may not serve"), (2, 0, 4, 1, "may not serve"), (3, 1, 5, 1, "may not serve"),
     (6, 20, 50, 6 / np.log(4.5), ""),  # three of five are right: e^z / (e^z + 3) = 0.6
     (5, 50, 50, MAX_TEMPERATURE, "bound")],
)  # fmt: skip
def test_a_temperature_is_kept_where_it_serves_other_recordings(scale, wrong, count, kept, note):
    answers = torch.arange(count) // 5 % 4
    false = torch.arange(count) * 7 % 50 < wrong  # spread over the folds
    result = evaluation.calibrate(
        scale * torch.eye(4)[answers], (answers + false) % 4, SINGLE_LABEL.loss
    )
    assert result[0] == pytest.approx(kept, rel=0.06)  # a prior pulls it to 1
    assert note in result[1] and bool(result[1]) == bool(note)


@pytest.mark.parametrize(("counts", "words"), [
    ([45, 5, 0], ""), ([49, 0, 0], "(49 in all)"), ([30, 16, 4], "(50 in all, 4 of c)"),
])  # fmt: skip
def test_few_validation_recordings_are_named(capsys, counts, words):
    evaluation.warn_of_few(np.repeat(np.eye(3, dtype=np.uint8), counts, axis=0), list("abc"))
    assert words in (line := capsys.readouterr().err) and bool(line) == bool(words)
