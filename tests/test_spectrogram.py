"""Spectrograms, and the 2-D network that sees them."""

import numpy as np
import pytest
import scipy.signal
import torch
import torch.nn.functional as F

from models import ENCODERS, build_encoder, settings_of
from models.resnet2d import SameConv2d
from models.spectrogram import NetworkError, Settings, Spectrogram, read_settings
from utils.engine import Hardware
from utils.names import SPECTRAL_ARCHITECTURES, SPECTROGRAM_SETTINGS


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(*shape):
    return torch.randn(*shape, generator=generator(1))


@pytest.mark.parametrize(("samples", "columns"), [(4096, 128), (16384, 512), (300, 9)])
def test_shapes_of_the_replication(samples, columns):
    assert Spectrogram(Settings())(noise(2, 1, samples)).shape == (2, 1, 128, columns)


@pytest.mark.parametrize("settings", [Settings(), Settings(64, 10, 20)])
def test_magnitudes_equal_the_transform_written_out(settings):
    x = noise(1, 2, 500)
    found = Spectrogram(settings)(x)[0].numpy()
    window = scipy.signal.get_window("hann", settings.window, fftbins=True)  # periodic
    half = settings.window // 2
    padded = np.pad(x[0].numpy(), ((0, 0), (half, half)))
    for lead in range(2):
        for column in range(500 // settings.hop):
            part = padded[lead, column * settings.hop :][: settings.window] * window
            expected = np.abs(np.fft.rfft(part))[1 : settings.bins + 1]
            np.testing.assert_allclose(found[lead, :, column], expected, atol=1e-4)


def test_decibels_and_their_floor():
    x = noise(1, 1, 512)
    linear = Spectrogram(Settings())(x)
    decibels = Spectrogram(Settings(scale="db"))(x)
    torch.testing.assert_close(decibels, 20 * linear.log10())
    assert (Spectrogram(Settings(scale="db"))(0 * x) == -100).all()


def test_a_tone_lies_in_its_bin():
    time = torch.arange(4096) / 250
    image = Spectrogram(Settings())(torch.sin(2 * torch.pi * 10 * time)[None, None])
    # Bins are 250 / 256 Hz apart, the first one is number 1.
    assert image[0, 0, :, 64].argmax().item() == round(10 * 256 / 250) - 1


def test_spectrograms_are_computed_in_fp32():
    front = Spectrogram(Settings())
    with torch.autocast("cpu", torch.bfloat16):
        image = front(noise(1, 1, 512))
    assert image.dtype == torch.float32
    torch.testing.assert_close(image, front(noise(1, 1, 512)))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"bins": 129}, "1 to 128"),
        ({"bins": 0}, "1 to 128"),
        ({"hop": 257}, "hop"),
        ({"hop": 0}, "hop"),
        ({"scale": "mel"}, "mel"),
        ({"width": 3}, "width"),
        ({"window": "wide"}, "wide"),
    ],
)
def test_settings_that_do_not_fit(settings, words):
    with pytest.raises(NetworkError, match=words):
        read_settings(settings)


def test_a_signal_shorter_than_a_window():
    with pytest.raises(NetworkError, match="255 samples"):
        Spectrogram(Settings())(noise(1, 1, 255))


@pytest.mark.parametrize("size", [(8, 9), (9, 8), (5, 5)])
@pytest.mark.parametrize(("kernel", "stride"), [(7, 2), (3, 2), (3, 1), (1, 2)])
def test_convolution_equals_the_sum_written_out(size, kernel, stride):
    conv, x = SameConv2d(2, 3, kernel, stride, generator()), noise(1, 2, *size)
    torch.nn.init.normal_(conv.bias, generator=generator())
    steps = [-(-length // stride) for length in size]
    totals = [
        max((n - 1) * stride + kernel - length, 0) for n, length in zip(steps, size, strict=True)
    ]
    padded = np.pad(x[0].numpy(), ((0, 0), *((total // 2, kernel) for total in totals)))
    weight, bias = conv.weight.detach().numpy(), conv.bias.detach().numpy()
    expected = np.empty((3, *steps))
    for row, column in np.ndindex(*steps):
        part = padded[:, row * stride :, column * stride :][:, :kernel, :kernel]
        expected[:, row, column] = (weight * part).sum((1, 2, 3)) + bias
    np.testing.assert_allclose(conv(x)[0].detach().numpy(), expected, atol=1e-5)


def test_the_network_is_the_same_in_both_layouts():
    encoder = build_encoder("resnet18_2d", 1, None, generator()).eval()
    x = noise(2, 1, 999)
    plain = encoder(x)
    Hardware(torch.device("cpu"), bf16=True).place(encoder)
    assert encoder.channels_last
    torch.testing.assert_close(encoder(x), plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("leads", [1, 3])
def test_every_parameter_has_a_gradient(leads):
    encoder = build_encoder("resnet18_2d", leads, None, generator())
    F.mse_loss(encoder(noise(3, leads, 512)), noise(3, 512)).backward()
    without = [n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.any()]
    # What batch normalisation subtracts again has no gradient but rounding.
    assert not [n for n in without if not ("conv" in n and n.endswith("bias"))]


def test_initial_values_are_he_normal_with_keras_batch_statistics():
    encoder = build_encoder("resnet18_2d", 1, None, generator())
    kernel = encoder.stages[3][1].conv2.weight
    assert kernel.std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.01)
    assert kernel.abs().max() <= 2 * (2 / (512 * 9)) ** 0.5 / 0.879
    assert (encoder.bn1.momentum, encoder.bn1.eps) == (pytest.approx(0.01), 1e-3)


def test_settings_travel_with_the_encoder():
    settings = {"window": 64, "hop": 8, "bins": 16, "scale": "db"}
    assert settings_of(build_encoder("resnet18_2d", 1, 1, generator(), settings)) == settings
    assert settings_of(build_encoder("resnet18", 1, 1, generator())) is None
    assert tuple(settings) == Settings._fields == SPECTROGRAM_SETTINGS
    spectral = tuple(name for name, row in ENCODERS.items() if row.spectral)
    assert spectral == SPECTRAL_ARCHITECTURES
