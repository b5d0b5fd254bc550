"""Pictures of answers: a recording on ECG paper, with the evidence along it."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.text import Text

from utils.files import atomic_path

DPI = 127  # 5 pixels to a millimetre, so that the lines of the paper are all alike
INCH = 25.4  # mm
# The usual ECG paper: 25 mm/s and 10 mm/mV; a line to each millimetre, every fifth is bolder.
SPEED, GAIN, SQUARE = 25, 10, 5
FINE, BOLD = "#f7cfcf", "#eeabab"
ROW = 10  # s
OVERHANG = 0.2  # s that are no reason for another row
LONGEST = 120  # s of one picture
NARROW, WIDE = 2, 4  # mV from the middle of a row to its edge
# In mm: around the page; in front of a row, for the pulse; below it; title; footer.
MARGIN, LEAD_IN, BAND, GAP, HEAD, FOOT = 8, 10, 4, 8, 9, 4
SMALLEST = 0.7  # share of a text's size that it may be drawn in
SCALE, WORDS = 40, 60  # mm, of the bar of colours and for what is to its right
FOOTER = "research software, not a medical device"
# Okabe & Ito: colours that colour-blind people tell apart.
COLOURS = ("#d55e00", "#0072b2", "#e69f00", "#cc79a7", "#009e73", "#56b4e9", "#f0e442", "#000000")
AGAINST_FOR = LinearSegmentedColormap.from_list("evidence", [COLOURS[1], "white", COLOURS[0]])


def draw_recording(
    path: Path,
    signal: np.ndarray,
    fs: float,
    evidence: np.ndarray | None = None,
    title: str = "",
    lead: str = "",
    answer: str = "the answer",
) -> None:
    """One lead on ECG paper, in true size at the file's resolution, in rows of 10 s.

    Each row is moved to its median; what is more than 4 mV from it is cut, and the row says so. Of
    more than two minutes the first two are drawn, and the picture says so.

    Args:
        path: of the image; its ending tells the format.
        signal: (T,) mV. fs: Hz.
        evidence: (k,) for `answer` in k equal parts of the whole signal, such as one class of
            `Classifier.upsample_map` without the padding, whose evidence is not seen; drawn below
            the rows, in one scale.
        title: of one line. lead: its name. answer: in words.
    """
    count = len(signal)
    parts = _rows(signal[: int(LONGEST * fs)], fs)
    reaches = [_reach(part) for part in parts]
    below = GAP if evidence is None else BAND + GAP
    height = sum(2 * reach * GAIN + below for reach in reaches)
    width = LEAD_IN + (ROW + OVERHANG) * SPEED
    page = _Page(MARGIN + width + MARGIN, MARGIN + HEAD + height + FOOT + MARGIN)
    page.text(MARGIN, MARGIN, title, 11, weight="bold")
    said = [f"lead {lead}"] * bool(lead) + [f"{fs:g} Hz", f"{SPEED} mm/s", f"{GAIN} mm/mV"]
    said += [f"the first {LONGEST} of {count / fs:,.0f} s"] * (count > LONGEST * fs)
    page.text(MARGIN, MARGIN + 5.5, ", ".join(said), 8)
    top = MARGIN + HEAD
    for row, (part, reach) in enumerate(zip(parts, reaches, strict=True)):
        start, paper = row * ROW, _up_to_a_square(len(part) / fs * SPEED)
        axes = page.axes(MARGIN, top, LEAD_IN + paper, 2 * reach * GAIN)
        axes.set(xlim=(start - LEAD_IN / SPEED, start + paper / SPEED), ylim=(-reach, reach))
        _draw_paper(axes)
        _draw_row(axes, part, start, fs, lead)
        top += 2 * reach * GAIN
        if evidence is not None:
            page.text(MARGIN, top + BAND / 2, "evidence", 5.5)
            axes = page.axes(MARGIN + LEAD_IN, top, paper, BAND)
            _draw_evidence(axes, evidence, count / fs)
            axes.set_xlim(start, start + paper / SPEED)
        _draw_seconds(axes, start)
        top += below
    if evidence is not None:
        _draw_scale(page, evidence, answer)
    page.text(MARGIN, page.height - MARGIN, FOOTER, 7, color="#555555")
    save(page.figure, path)


class _Page:
    """A figure of so many mm; what is put on it is told in mm from its upper left corner."""

    def __init__(self, width: float, height: float):
        self.width, self.height = width, height
        self.figure = Figure((width / INCH, height / INCH), dpi=DPI)
        self.renderer = FigureCanvasAgg(self.figure).get_renderer()

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        bottom = self.height - top - height
        within = (left / self.width, bottom / self.height, width / self.width, height / self.height)
        return self.figure.add_axes(within, xticks=[], yticks=[])

    def text(self, left: float, middle: float, words: str, size: float, **style) -> None:
        """One line from, or of style `ha="right"` up to, `left`; see `fit`."""
        text = self.figure.text(
            left / self.width, 1 - middle / self.height, words, size=size, va="center",
            parse_math=False, **style,
        )  # fmt: skip
        space = (left if text.get_ha() == "right" else self.width - left) - MARGIN
        fit(text, space / INCH * DPI, self.renderer)


def fit(text: Text, space: float, renderer: RendererAgg) -> None:
    """Make a text smaller, then cut it, until it is no wider than so many pixels."""
    smallest = SMALLEST * text.get_size()
    while text.get_window_extent(renderer).width > space:
        if text.get_size() > smallest:
            text.set_size(0.95 * text.get_size())
        else:
            words = text.get_text()
            text.set_text(words[: int(0.95 * len(words)) - 1] + "…")


def _rows(signal: np.ndarray, fs: float) -> list[np.ndarray]:
    """Rows of `ROW` seconds; a remainder of no length is left with the last."""
    count = max(1, int(np.ceil((len(signal) / fs - OVERHANG) / ROW)))
    starts = np.round(np.arange(1, count) * ROW * fs).astype(int)
    return [_centred(part) for part in np.split(signal, starts)]


def _centred(part: np.ndarray) -> np.ndarray:
    known = part[np.isfinite(part)]
    return part - (np.median(known) if known.size else 0)


def _reach(part: np.ndarray) -> float:
    """mV from the middle of a row to its edge, in whole squares."""
    largest = np.nanmax(np.abs(part), initial=0)
    return float(np.clip(_up_to_a_square(largest * GAIN) / GAIN, NARROW, WIDE))


def _up_to_a_square(millimetres: float) -> float:
    return SQUARE * np.ceil(millimetres / SQUARE - 1e-6)


def _draw_paper(axes: Axes) -> None:
    """Lines to each mm, from the upper left corner on."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    for step, colour, width in ((1, FINE, 0.3), (SQUARE, BOLD, 0.6)):
        across = np.arange(left, right + 1e-6, step / SPEED)
        axes.vlines(across, low, high, colour, linewidth=width, zorder=0.5)
        up = np.arange(low, high + 1e-6, step / GAIN)
        axes.hlines(up, left, right, colour, linewidth=width, zorder=0.5)
    axes.spines[:].set(color=BOLD, linewidth=0.6)


def _draw_row(axes: Axes, part: np.ndarray, start: float, fs: float, lead: str) -> None:
    """The lead behind the pulse of 1 mV and 0.2 s."""
    pulse = start + np.array([-9, -8, -8, -3, -3, -2]) / SPEED
    axes.plot(pulse, [0, 0, 1, 1, 0, 0], color="black", lw=0.8)
    axes.plot(start + np.arange(len(part)) / fs, part, color="black", lw=0.7)
    _, reach = axes.get_ylim()
    axes.annotate(
        lead, (0, 1), (2, -2), "axes fraction", "offset points", size=7, va="top",
        weight="bold", parse_math=False,
    )  # fmt: skip
    if np.nanmax(np.abs(part), initial=0) > reach:
        axes.annotate(
            f"cut at ±{reach:g} mV", (1, 1), (-2, -2), "axes fraction", "offset points", size=7,
            va="top", ha="right", color=COLOURS[0],
        )  # fmt: skip


def _draw_seconds(axes: Axes, start: float) -> None:
    _, right = axes.get_xlim()
    first, *others = np.arange(start, right + 1e-6)
    axes.set_xticks([first, *others], [f"{first:g} s", *(f"{second:g}" for second in others)])
    axes.tick_params("x", length=2, width=0.5, pad=1, labelsize=7)


def _draw_evidence(axes: Axes, evidence: np.ndarray, seconds: float) -> None:
    """Of the whole recording; where there is none, nothing."""
    axes.imshow(
        evidence[None], AGAINST_FOR, _symmetric(evidence), aspect="auto", interpolation="nearest",
        extent=(0, seconds, 0, 1),
    )  # fmt: skip
    axes.set_yticks([])
    axes.spines[:].set(color=BOLD, linewidth=0.6)


def _symmetric(evidence: np.ndarray) -> Normalize:
    largest = float(np.nanmax(np.abs(evidence), initial=1e-6))
    return Normalize(-largest, largest)


def _draw_scale(page: _Page, evidence: np.ndarray, answer: str) -> None:
    """Which colour speaks for what, below the rows."""
    left, middle = page.width - MARGIN - WORDS - SCALE, page.height - MARGIN
    page.text(left - 2, middle, "evidence:   against", 7, ha="right")
    bar = page.axes(left, middle - 1.5, SCALE, 3)
    colours = ScalarMappable(_symmetric(evidence), AGAINST_FOR)
    page.figure.colorbar(colours, bar, orientation="horizontal", ticks=[])
    page.text(left + SCALE + 2, middle, f"for {answer}", 7)


def save(figure: Figure, path: Path) -> None:
    """Write a figure whole or not at all; the path's ending tells the format."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=DPI, format=Path(path).suffix.lstrip("."))
