"""Magnitude spectrograms as the first layer of 2-D networks."""

from dataclasses import astuple, dataclass

import torch
from torch import Tensor, nn

MAX_WINDOW = 2**16  # samples
FLOOR = 1e-5  # smallest magnitude in decibels: -100 dB
SCALES = ("linear", "db")


class NetworkError(ValueError):
    """A network that cannot be built, or cannot take such an input."""


@dataclass(frozen=True)
class SpectrogramSettings:
    """Settings of a spectrogram, by default the replication's; `NetworkError` if they do not fit.

    Attributes:
        window, hop: samples of a Hann window, and from one window to the next.
        bins: number of frequencies kept, from bin 1 on: bin 0, the mean, is dropped.
        scale: `linear` magnitude, or `db`.
    """

    window: int = 256
    hop: int = 32
    bins: int = 128
    scale: str = "linear"

    def __post_init__(self):
        window, hop, bins, scale = astuple(self)
        if not all(type(n) is int for n in (window, hop, bins)) or window > MAX_WINDOW:
            raise NetworkError(f"{astuple(self)} are not settings of a spectrogram")
        if not 0 < bins <= window // 2:
            raise NetworkError(
                f"--spectrogram-bins {bins}: a window of {window} samples has 1 to {window // 2}"
            )
        if not 0 < hop <= window:
            raise NetworkError(f"--spectrogram-hop {hop} leaves samples out; at most {window}")
        if scale not in SCALES:
            raise NetworkError(f"unknown spectrogram scale {scale!r}")


class Spectrogram(nn.Module):
    """(B, C, T) -> (B, C, bins, T // hop), in fp32; `NetworkError` if T is less than a window.

    Windows are centred on every `hop`-th sample, with zeros beyond the ends, as librosa does.
    """

    def __init__(self, settings: SpectrogramSettings):
        super().__init__()
        self.settings = settings
        self.register_buffer("window", torch.hann_window(settings.window), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        window, hop, bins = self.settings.window, self.settings.hop, self.settings.bins
        if x.shape[-1] < window:
            raise NetworkError(
                f"{x.shape[-1]} samples are shorter than the spectrogram's window of {window}"
            )
        with torch.autocast(x.device.type, enabled=False):
            spectrum = torch.stft(
                x.flatten(0, 1).float(), window, hop, window=self.window, center=True,
                pad_mode="constant", return_complex=True,
            )  # fmt: skip
            magnitude = spectrum[:, 1 : bins + 1, : x.shape[-1] // hop].abs()
            if self.settings.scale == "db":
                magnitude = 20 * magnitude.clamp_min(FLOOR).log10()
        return magnitude.unflatten(0, x.shape[:2])
