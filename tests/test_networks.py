"""The networks are those of the paper and the replication: shapes, padding, initial weights."""

import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import scipy.signal
import torch
import torch.nn.functional as F

from models import Classifier, build_encoder, count_parameters
from models.resnet1d import BasicBlock, ResNet1d, SameConv1d, same_padding
from models.resnet2d import SameConv2d
from models.spectrogram import NetworkError, Spectrogram, SpectrogramSettings
from utils.engine import Hardware

PADDING = {  # (samples, kernel, stride): zeros in front, behind
    (8, 7, 2): (2, 3), (9, 7, 2): (3, 3), (8, 3, 2): (0, 1), (9, 3, 2): (1, 1), (8, 5, 2): (1, 2),
    (9, 5, 2): (2, 2), (9, 5, 1): (2, 2), (8, 1, 2): (0, 0), (1, 7, 2): (3, 3),
}  # fmt: skip


def generator():
    return torch.Generator().manual_seed(0)


def noise(*shape):
    return torch.randn(*shape, generator=generator())


def network(architecture="resnet18", leads=1, stages=None, classes=5):
    source = generator()
    return Classifier(build_encoder(architecture, leads, stages, source), classes, source)


@pytest.mark.parametrize(
    ("architecture", "classes", "parameters"),
    [("resnet18", 5, 4_495_045), ("resnet18", 4, 4_494_532), ("resnet34", 6, 9_089_734),
     ("resnet50", 4, 16_982_212), ("resnet18_2d", 5, 11_187_205)],
)  # fmt: skip
def test_parameters_are_those_that_keras_counts(architecture, classes, parameters):
    assert count_parameters(network(architecture, classes=classes)) == parameters


@pytest.mark.parametrize("case", PADDING)
def test_convolutions_pad_as_tensorflow_does(case):
    assert same_padding(*case) == PADDING[case]
    length, kernel, stride = case
    conv, x = SameConv1d(2, 3, kernel, stride), noise(1, 2, length)
    torch.nn.init.normal_(conv.weight, generator=generator())
    expected = F.conv1d(F.pad(x, PADDING[case]), conv.weight, stride=stride)
    for result in (conv(x), conv(x.unsqueeze(2)).squeeze(2)):
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)
    conv, x = SameConv2d(2, 3, kernel, stride), noise(1, 2, length, length)
    for parameter in conv.parameters():
        torch.nn.init.normal_(parameter, generator=generator())
    expected = F.conv2d(F.pad(x, PADDING[case] * 2), conv.weight, conv.bias, stride)
    torch.testing.assert_close(conv(x), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("length", [16, 17, 18])
def test_the_pool_pads_as_tensorflow_does(length):
    encoder, x = ResNet1d(BasicBlock, (), 1, generator()).eval(), noise(1, 1, length)
    y = F.relu(encoder.bn1(encoder.conv1(x)))
    padded = F.pad(y, PADDING[y.shape[-1], 3, 2], value=-math.inf)
    for encoder.channels_last in (False, True):
        torch.testing.assert_close(encoder(x), F.max_pool1d(padded, 3, 2).mean(-1))


@pytest.mark.parametrize("length", [2048, 2047])
@pytest.mark.parametrize("architecture", ["resnet18", "resnet50", "resnet18_2d"])
def test_class_activation_maps_add_up_to_the_logits_in_both_layouts(architecture, length):
    # Not `eval`: normalised by the batch, values are of the size that trained networks have.
    model = network(architecture, 2, 3 if architecture == "resnet50" else None, classes=4)
    torch.nn.init.normal_(model.head.bias, generator=generator())
    x, hop = noise(2, 2, length), 32 if architecture == "resnet18_2d" else 1
    plain = model(x)
    assert Hardware(torch.device("cpu"), bf16=True).place(model).encoder.channels_last
    with torch.no_grad():
        logits, activation = model(x), model.class_activation_map(x)
    torch.testing.assert_close(logits, plain, rtol=1e-3, atol=1e-3)
    assert activation.shape == (2, 4, math.ceil(length // hop / (model.encoder.stride / hop)))
    torch.testing.assert_close(activation.mean(-1) + model.head.bias, logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("stages", "width", "stride"), [(1, 64, 4), (2, 128, 8), (4, 512, 32)])
def test_a_position_sees_the_samples_that_it_stands_for(stages, width, stride):
    model, x = network(stages=stages).eval(), noise(1, 1, 2048).requires_grad_()
    assert model.encoder.stride == stride
    assert model.encoder(x).shape == (1, width) == (1, model.encoder.out_features)
    position = 1024 // stride
    model.class_activation_map(x)[0, 0, position].backward()
    seen = x.grad[0, 0].nonzero()[:, 0]
    assert position * stride <= (seen.min() + seen.max()) / 2 < (position + 1) * stride
    samples = model.upsample_map(torch.arange(6.0).reshape(2, 3), 2 * stride + 9)
    assert samples[1].tolist() == [3.0] * stride + [4.0] * stride + [5.0] * 9


def test_initial_weights_and_batch_norm_are_those_of_keras():
    model = network()
    for conv in model.modules():
        if isinstance(conv, SameConv1d):
            sd = math.prod(conv.weight.shape[1:]) ** -0.5
            standard_error = (2 * conv.weight.numel()) ** -0.5
            assert conv.weight.std().item() == pytest.approx(sd, rel=5 * standard_error)
            assert 1.8 * sd / 0.8796 < conv.weight.abs().max() <= 2.0001 * sd / 0.8796
    limit = (6 / (512 + 5)) ** 0.5
    assert 0.99 * limit < model.head.weight.abs().max() <= limit and not model.head.bias.any()
    norm = model.encoder.bn1
    assert (norm.momentum, norm.eps) == (0.1, 1e-5)
    encoder = build_encoder("resnet18_2d", 1, None, generator())
    kernel, he_normal = encoder.stages[3][1].conv2.weight, (2 / (512 * 9)) ** 0.5
    assert kernel.std().item() == pytest.approx(he_normal, rel=0.01)
    assert (encoder.bn1.momentum, encoder.bn1.eps) == (pytest.approx(0.01), 1e-3)


@pytest.mark.parametrize("settings", [SpectrogramSettings(), SpectrogramSettings(64, 10, 20)])
def test_spectrograms_equal_the_transform_written_out(settings):
    x = noise(1, 2, 500)
    encoder = build_encoder("resnet18_2d", 1, 1, generator(), asdict(settings))
    assert encoder.spectrogram_settings == asdict(encoder.spectrogram.settings) == asdict(settings)
    with torch.autocast("cpu", torch.bfloat16):
        image = Spectrogram(settings)(x)[0].numpy()
    assert image.shape == (2, settings.bins, 500 // settings.hop) and image.dtype == np.float32
    window = scipy.signal.get_window("hann", settings.window, fftbins=True)  # periodic
    padded = np.pad(x[0].numpy(), ((0, 0), (settings.window // 2,) * 2))
    for column in range(500 // settings.hop):
        part = padded[:, column * settings.hop :][:, : settings.window] * window
        expected = np.abs(np.fft.rfft(part))[:, 1 : settings.bins + 1]
        np.testing.assert_allclose(image[:, :, column], expected, atol=1e-4)
    decibels = Spectrogram(replace(settings, scale="db"))
    torch.testing.assert_close(decibels(x), 20 * Spectrogram(settings)(x).log10())
    assert (decibels(0 * x) == -100).all()
    with pytest.raises(NetworkError, match="samples are shorter"):
        decibels(x[..., : settings.window - 1])


@pytest.mark.parametrize(
    ("architecture", "stages", "settings", "words"),
    [("resnet18", 0, {}, "--stages 0: resnet18 has 1 to 4"), ("resnet18", 5, {}, "--stages 5")]
    + [("resnet18_2d", 1, {name: value}, f"'{name}': {value!r}.* are not settings") for name, value
       in (("bins", 129), ("bins", 0), ("hop", 257), ("hop", 0), ("scale", "mel"), ("width", 3),
           ("window", "wide"))],
)  # fmt: skip
def test_networks_that_cannot_be_built(architecture, stages, settings, words):
    with pytest.raises(NetworkError, match=words):
        build_encoder(architecture, 1, stages, generator(), settings)
