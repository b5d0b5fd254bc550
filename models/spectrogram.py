"""Magnitude spectrograms, computed where the signal is: the input of 2-D networks."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

LONGEST = 2**16  # samples of a window
FLOOR = 1e-5  # magnitude below which decibels are not told apart: -100 dB

SCALES = ("linear", "db")


class NetworkError(ValueError):
    """A network that cannot be built, or cannot take such an input."""


class Settings(NamedTuple):
    """How to compute a spectrogram; the defaults are the replication's.

    Attributes:
        window: samples of a Hann window. hop: samples between two of them.
        bins: frequencies kept, from bin 1 on: the mean, in bin 0, is dropped.
        scale: `linear` magnitude, or `db`.
    """

    window: int = 256
    hop: int = 32
    bins: int = 128
    scale: str = "linear"

    def check(self) -> "Settings":
        """Raises `NetworkError` where the settings do not fit together, or are no numbers."""
        if not all(type(value) is int for value in self[:3]) or self.window > LONGEST:
            raise NetworkError(f"{self} are not settings of a spectrogram")
        if not 0 < self.bins <= self.window // 2:
            raise NetworkError(
                f"--spectrogram-bins {self.bins}: a window of {self.window} samples has 1 to "
                f"{self.window // 2}"
            )
        if not 0 < self.hop <= self.window:
            raise NetworkError(
                f"--spectrogram-hop {self.hop} leaves samples out; at most {self.window}"
            )
        if self.scale not in SCALES:
            raise NetworkError(f"unknown spectrogram scale {self.scale!r}")
        return self


def read_settings(values: dict[str, Any]) -> Settings:
    """Settings from a weights file; raises `NetworkError` where they are none."""
    try:
        return Settings(**values).check()
    except TypeError:
        raise NetworkError(f"{values} are not settings of a spectrogram") from None


class Spectrogram(nn.Module):
    """(B, C, T) -> (B, C, bins, T // hop), in fp32.

    Windows are centred on every `hop`-th sample, zeros beyond the ends, as librosa does; 4,096
    samples give 128 × 128 with the default settings.
    """

    def __init__(self, settings: Settings):
        super().__init__()
        self.settings = settings.check()
        self.register_buffer("window", torch.hann_window(settings.window), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        window, hop, bins, scale = self.settings
        if x.shape[-1] < window:
            raise NetworkError(
                f"{x.shape[-1]} samples are shorter than the spectrogram's window of {window}"
            )
        with torch.autocast(x.device.type, enabled=False):
            spectrum = torch.stft(
                x.flatten(0, 1).float(), window, hop, window=self.window, center=True,
                pad_mode="constant", return_complex=True,
            )  # fmt: skip
            # (B * C, window / 2 + 1, 1 + T // hop)
            magnitude = spectrum[:, 1 : bins + 1, : x.shape[-1] // hop].abs()
            if scale == "db":
                magnitude = 20 * magnitude.clamp_min(FLOOR).log10()
        return magnitude.unflatten(0, x.shape[:2])
