"""The networks are those of the paper: shapes, padding, initial weights, statistics."""

import copy
import math
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from models import Classifier, build_encoder, count_parameters
from models.keras_rules import same_padding
from models.residual import BasicBlock
from models.resnet1d import BatchNorm, ResNet1d, SameConv1d
from models.spectrogram import NetworkError
from tests.helpers import make_classifier
from utils import engine
from utils.cli import UserError
from utils.engine import Batch, Hardware, NotFinite, choose_hardware, predict, train_epoch

# samples, kernel, stride: zeros in front, behind
PADDING = {
    (8, 7, 2): (2, 3),
    (9, 7, 2): (3, 3),
    (8, 3, 2): (0, 1),
    (9, 3, 2): (1, 1),
    (8, 5, 2): (1, 2),
    (9, 5, 2): (2, 2),
    (9, 5, 1): (2, 2),
    (8, 1, 2): (0, 0),
    (1, 7, 2): (3, 3),
}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(*shape, seed=1):
    return torch.randn(*shape, generator=generator(seed))


def network(classes=5, seed=0, stages=None):
    source = generator(seed)
    return Classifier(build_encoder("resnet18", 1, stages, source), classes, source)


@pytest.fixture(scope="module")
def whole():
    """The whole network; tests leave it as it is."""
    return network()


def windows(x, kernel, stride, outside):
    """(C, T) to (T / stride, C, kernel), one sample at a time."""
    channels, length = x.shape
    front, _ = PADDING[length, kernel, stride]
    found = np.full((math.ceil(length / stride), channels, kernel), outside)
    for place in range(len(found)):
        for tap in range(kernel):
            source = place * stride + tap - front
            if 0 <= source < length:
                found[place, :, tap] = x[:, source]
    return found


@pytest.mark.parametrize(
    ("architecture", "classes", "parameters"),
    [
        ("resnet18", 5, 4_495_045),
        ("resnet18", 4, 4_494_532),
        ("resnet34", 6, 9_089_734),
        ("resnet50", 4, 16_982_212),
        ("resnet18_2d", 5, 11_187_205),
    ],
)
def test_parameters_are_those_that_keras_counts(architecture, classes, parameters):
    encoder = build_encoder(architecture, 1, None, generator())
    assert count_parameters(Classifier(encoder, classes, generator())) == parameters
    assert count_parameters(encoder) == parameters - (encoder.out_features + 1) * classes
    if architecture == "resnet18":
        assert count_parameters(encoder) == 4_492_480


@pytest.mark.parametrize(("case", "expected"), PADDING.items())
def test_same_padding_is_tensorflows(case, expected):
    assert same_padding(*case) == expected


@pytest.mark.parametrize("case", PADDING)
@pytest.mark.parametrize("dimensions", [3, 4])
def test_convolution_equals_the_sum_written_out(case, dimensions):
    length, kernel, stride = case
    conv, x = SameConv1d(2, 3, kernel, stride, generator()), noise(1, 2, length)
    taps = windows(x[0].numpy(), kernel, stride, outside=0.0)
    expected = np.einsum("tck,ock->ot", taps, conv.weight.detach().numpy())
    found = conv(x if dimensions == 3 else x.unsqueeze(2)).reshape(3, -1)
    np.testing.assert_allclose(found.detach().numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("length", [16, 17, 18])
@pytest.mark.parametrize("channels_last", [False, True])
def test_stem_equals_convolution_and_pooling_written_out(length, channels_last):
    encoder, x = ResNet1d(BasicBlock, (), 1, generator()).eval(), noise(1, 1, length)
    encoder.channels_last = channels_last
    y = F.relu(encoder.bn1(encoder.conv1(x)))[0].detach().numpy()
    expected = windows(y, 3, 2, outside=-np.inf).max(-1).mean(0)
    np.testing.assert_allclose(encoder(x)[0].detach().numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("length", [256, 255])
def test_both_layouts_compute_the_same(whole, length):
    model, x = copy.deepcopy(whole).eval(), noise(2, 1, length)
    plain = model(x)
    Hardware(torch.device("cpu"), bf16=True).place(model)
    assert model.encoder.channels_last
    torch.testing.assert_close(model(x), plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("length", [2048, 2047, 1000])
@pytest.mark.parametrize("architecture", ["resnet18", "resnet50", "resnet18_2d"])
def test_evidence_adds_up_to_the_logits(architecture, length, channels_last):
    stages = 3 if architecture == "resnet50" else None
    # Not `eval`: normalised by the batch, values are of the size that trained networks have.
    model = Classifier(build_encoder(architecture, 2, stages, generator()), 4, generator())
    model.encoder.channels_last = channels_last
    torch.nn.init.normal_(model.head.bias, generator=generator())
    x = noise(2, 2, length)
    with torch.no_grad():
        logits, evidence = model.explain(x)
        assert torch.equal(logits, model(x)) and torch.equal(evidence, model.evidence(x))
    hop = 32 if architecture == "resnet18_2d" else 1
    assert evidence.shape == (2, 4, math.ceil(length // hop / (model.encoder.stride / hop)))
    assert evidence.dtype == torch.float32
    torch.testing.assert_close(evidence.mean(-1) + model.head.bias, logits, rtol=0, atol=1e-4)


def test_evidence_is_float32_where_the_network_is_not(whole):
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert whole.evidence(noise(2, 1, 256)).dtype == torch.float32


@pytest.mark.parametrize(("stages", "stride"), [(1, 4), (2, 8), (4, 32)])
def test_a_place_sees_the_samples_that_it_stands_for(stages, stride):
    model, x = network(stages=stages).eval(), noise(1, 1, 2048).requires_grad_()
    assert model.encoder.stride == stride
    place = 1024 // stride
    model.evidence(x)[0, 0, place].backward()
    seen = x.grad[0, 0].nonzero()[:, 0]
    middle = (seen.min() + seen.max()) / 2
    assert place * stride <= middle < (place + 1) * stride


def test_evidence_by_sample(whole):
    evidence = torch.arange(6.0).reshape(2, 3)
    found = whole.by_sample(evidence, 70)
    assert found.shape == (2, 70)
    assert found[1].tolist() == [3.0] * 32 + [4.0] * 32 + [5.0] * 6
    # Samples that fill no column of a spectrogram are those of the last place.
    assert whole.by_sample(evidence, 100)[0, 95:].tolist() == [2.0] * 5


@pytest.mark.parametrize("channels_last", [False, True])
def test_every_parameter_has_a_gradient(whole, channels_last):
    model = copy.deepcopy(whole)
    model.encoder.channels_last = channels_last
    F.cross_entropy(model(noise(4, 1, 256)), torch.arange(4)).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not without


def test_kernels_and_strides_of_the_stages(whole):
    found = [
        (conv.weight.shape[1], conv.weight.shape[0], conv.weight.shape[2], conv.stride)
        for conv in whole.modules()
        if isinstance(conv, SameConv1d)
    ]
    expected = [(1, 64, 7, 2)] + [(64, 64, 7, 1)] * 4
    for before, filters, kernel in ((64, 128, 5), (128, 256, 5), (256, 512, 3)):
        expected += [(before, filters, kernel, 2), (filters, filters, kernel, 1)]
        expected += [(before, filters, 1, 2)] + [(filters, filters, kernel, 1)] * 2
    assert found == expected


@pytest.mark.parametrize(("stages", "width"), [(1, 64), (2, 128), (3, 256)])
def test_stages_keeps_the_first_ones(stages, width):
    encoder = build_encoder("resnet18", 2, stages, generator())
    assert len(encoder.stages) == stages
    assert encoder(noise(2, 2, 64)).shape == (2, width) == (2, encoder.out_features)


@pytest.mark.parametrize("stages", [0, 5])
def test_stages_that_there_are_not(stages):
    with pytest.raises(NetworkError, match=f"--stages {stages}: resnet18 has 1 to 4"):
        build_encoder("resnet18", 1, stages, generator())


def test_initial_weights(whole):
    for conv in whole.modules():
        if isinstance(conv, SameConv1d):
            sd = math.prod(conv.weight.shape[1:]) ** -0.5
            standard_error = (2 * conv.weight.numel()) ** -0.5
            assert conv.weight.std().item() == pytest.approx(sd, rel=5 * standard_error)
            assert 1.8 * sd / 0.8796 < conv.weight.abs().max() <= 2.0001 * sd / 0.8796
    limit = (6 / (512 + 5)) ** 0.5
    assert 0.99 * limit < whole.head.weight.abs().max() <= limit
    assert not whole.head.bias.any()


def test_batch_norm_constants(whole):
    norms = [module for module in whole.modules() if isinstance(module, BatchNorm)]
    assert len(norms) == 20
    assert {(norm.momentum, norm.eps) for norm in norms} == {(0.1, 1e-5)}


def test_weights_depend_on_the_generator_only():
    torch.manual_seed(1)
    first = network(stages=1, seed=0).state_dict()
    torch.manual_seed(2)
    for name, value in network(stages=1, seed=0).state_dict().items():
        assert torch.equal(value, first[name])
    assert not torch.equal(
        network(stages=1, seed=1).encoder.conv1.weight, first["encoder.conv1.weight"]
    )


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_encoder_keeps_weights_and_statistics(frozen):
    model = make_classifier()
    if frozen:
        model.freeze_encoder()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    batches = [Batch(noise(4, 1, 64), torch.arange(4), 4)] * 2
    cpu = Hardware(torch.device("cpu"), bf16=False)
    train_epoch(model, batches, optimizer, F.cross_entropy, cpu)
    changed = {name for name, v in model.state_dict().items() if not torch.equal(v, before[name])}
    assert {"head.weight", "head.bias"} <= changed
    encoder = {name for name in before if name.startswith("encoder.")}
    assert changed & encoder == (set() if frozen else encoder)


class Broken(torch.nn.Module):
    def forward(self, x):
        return x.flatten(1) * float("nan")


def test_a_network_that_no_longer_computes_numbers_is_an_error():
    cpu = Hardware(torch.device("cpu"), bf16=False)
    batches = [Batch(noise(4, 1, 4).requires_grad_(), torch.arange(4), 4)]
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)])
    with pytest.raises(UserError, match="no longer finite; lower --lr"):
        train_epoch(Broken(), batches, optimizer, F.cross_entropy, cpu)
    with pytest.raises(UserError, match="no longer finite; lower --lr"):
        predict(Broken(), batches, cpu)


def test_cuda_asked_for_in_vain(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="--device cuda"):
        choose_hardware("cuda", "auto")
    assert choose_hardware("auto", "fp32") == Hardware(torch.device("cpu"), bf16=False)
    assert choose_hardware("cpu", "bf16").bf16


@pytest.mark.parametrize(
    ("device", "flag", "compiled"),
    [("cpu", None, False), ("cpu", True, True), ("cuda", None, True), ("cuda", False, False)],
)
def test_compiled_on_cuda_or_where_asked_for(monkeypatch, device, flag, compiled):
    monkeypatch.setattr(torch, "compile", lambda model, dynamic: "compiled")
    hardware = Hardware(torch.device(device), bf16=False)
    assert hardware.compile("as it is", flag) == ("compiled" if compiled else "as it is")


def test_the_loss_is_looked_at_now_and_then(monkeypatch):
    def forward(x):
        steps.append(len(steps) + 1)
        return model(x) * (float("nan") if len(steps) == 3 else 1)

    monkeypatch.setattr(engine, "READ_EVERY", 2)
    model, steps, means = make_classifier(), [], []
    wrapped = mock.Mock(side_effect=forward)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    batches = [Batch(noise(4, 1, 64), torch.arange(4), 4)] * 9
    cpu = Hardware(torch.device("cpu"), bf16=False)
    totals = engine.Totals(cpu.device)
    with pytest.raises(NotFinite, match="no longer finite") as raised:
        train_epoch(
            wrapped, batches, optimizer, F.cross_entropy, cpu, totals,
            after_step=lambda: means.append(totals.means),
        )  # fmt: skip
    assert raised.value.step == 3
    assert steps == [1, 2, 3, 4]  # the fourth step is the next look
    assert means[0] is None and means[1] == means[2] == totals.means
    assert totals.means[0] == pytest.approx(totals.loss / 8)
