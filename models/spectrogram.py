"""Magnitude spectrograms as the first layer of 2-D networks."""

from dataclasses import asdict, dataclass

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
        numbers = self.window, self.hop, self.bins
        whole = all(type(number) is int and 0 < number <= MAX_WINDOW for number in numbers)
        fit = whole and self.hop <= self.window and 2 * self.bins <= self.window
        if not fit or self.scale not in SCALES:
            limits = "--spectrogram-hop is at most the window, --spectrogram-bins half of it"
            raise NetworkError(f"{asdict(self)} are not settings of a spectrogram; {limits}")


class Spectrogram(nn.Module):
    """(B, C, T) -> (B, C, bins, T // hop), in fp32; `NetworkError` if T is less than a window.
    Windows are centred on every `hop`-th sample, with zeros beyond the ends, as librosa does."""

    def __init__(self, settings: SpectrogramSettings):
        super().__init__()
        self.settings = settings
        self.register_buffer("window", torch.hann_window(settings.window), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        window, hop, bins = self.settings.window, self.settings.hop, self.settings.bins
        if x.shape[-1] < window:
            raise NetworkError(f"{x.shape[-1]} samples are shorter than a spectrogram's {window}")
        with torch.autocast(x.device.type, enabled=False):
            spectrum = torch.stft(
                x.flatten(0, 1).float(), window, hop, window=self.window, center=True,
                pad_mode="constant", return_complex=True,
            )  # fmt: skip
            magnitude = spectrum[:, 1 : bins + 1, : x.shape[-1] // hop].abs()
            if self.settings.scale == "db":
                magnitude = 20 * magnitude.clamp_min(FLOOR).log10()
        return magnitude.unflatten(0, x.shape[:2])
