"""Pictures of predictions: a recording on ECG paper with its evidence, a long recording in time."""

import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from finetuning.predict import Answer, Prediction, Predictor
from finetuning.predict.results import CANNOT_TELL, class_descriptions, describe, format_time
from recordings import LazyRecording
from utils.files import atomic_path

DPI = 127  # 5 pixels per millimetre, so that all lines of the paper are equally wide
INCH = 25.4  # mm
SPEED, GAIN = 25, 10  # mm/s and mm/mV, the usual ECG paper
ROW, EXTRA = 10, 0.2  # s of a row, and by how much the last row may be longer
LEAD_IN = 0.4  # s in front of a row, for the calibration pulse
LOWEST, HIGHEST = 2, 4  # mV from the middle of a row to its edge
BAND = 0.4  # mV, height of the band of evidence below a row
MARGIN, HEADER, GAP, FOOTER = 8, 17, 8, 18  # mm
LONGEST_TITLE = 95  # characters that fit on the page
NOTICE = "research software, not a medical device"
# Okabe & Ito: colours that colour-blind people can tell apart.
COLOURS = ("#d55e00", "#0072b2", "#e69f00", "#cc79a7", "#009e73", "#56b4e9", "#f0e442", "#000000")
GREY = "#bdbdbd"
EVIDENCE = LinearSegmentedColormap.from_list("evidence", [COLOURS[1], "white", COLOURS[0]])
# Seconds between the ticks of a time axis.
STEPS = (5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 4 * 3600, 12 * 3600, 24 * 3600)


def draw(
    folder: Path, name: str, recording: LazyRecording, predictor: Predictor, prediction: Prediction
) -> None:
    """Write the pictures of one recording, whose leads are those that the networks see.

    A short recording becomes `NAME.png`, with the evidence for its most probable class. A long one
    becomes `NAME_timeline.png` and, for each class that some window has, the window in which it is
    most probable, `NAME_300s_CLASS.png`. Of several leads the first is drawn.
    """
    descriptions = class_descriptions(predictor)
    if len(prediction.windows) == 1:
        number = int(prediction.probabilities.argmax())
        pictures = [(f"{name}.png", prediction.whole, number)]
    else:
        multi_label = predictor.metadata.multi_label
        path = folder / f"{name}_timeline.png"
        draw_timeline(path, prediction, descriptions, multi_label, name)
        pictures = []
        for number, label in enumerate(prediction.names):
            windows = [window for window in prediction.windows if label in window.classes]
            if windows:
                clearest = max(windows, key=lambda window: window.probabilities[number])
                words = re.sub(r"[^\w.-]+", "-", descriptions[label])
                pictures.append((f"{name}_{clearest.start:.0f}s_{words}.png", clearest, number))
    for file, answer, number in pictures:
        signal = recording.read(*(round(t * recording.fs) for t in (answer.start, answer.stop)))
        evidence = None
        if answer.readable:
            evidence = predictor.class_activation_map(signal, recording.fs)[number]
        draw_recording(
            folder / file, signal[:, 0], recording.fs, evidence,
            title=headline(name, answer, descriptions),
            lead=recording.leads[0] if recording.leads else "0",
            evidence_for=descriptions[prediction.names[number]],
        )  # fmt: skip


def headline(name: str, answer: Answer, descriptions: Mapping[str, str]) -> str:
    """`A00004  atrial fibrillation (A 0.93, N 0.02, …)`: the title of a picture."""
    title = f"{name}  {describe(answer, descriptions)}"
    title += f": {answer.reason}" if answer.reason else ""
    if answer.readable:
        pairs = zip(descriptions, answer.probabilities, strict=True)
        title += f" ({', '.join(f'{label} {p:.2f}' for label, p in pairs)})"
    return title + (f", from {answer.start:.0f} s" if answer.start > 0 else "")


@matplotlib.rc_context({"text.parse_math": False})
def draw_recording(
    path: Path,
    signal: np.ndarray,
    fs: float,
    evidence: np.ndarray | None = None,
    title: str = "",
    lead: str = "",
    evidence_for: str = "",
) -> None:
    """Draw one lead on ECG paper in rows of 10 s, in true size at the resolution of the file.

    Each row is centred on its median, and says so if the signal is cut off at its edge.

    Args:
        path: its suffix determines the format.
        signal: (samples,) in mV; NaN where samples are missing.
        fs: Hz.
        evidence: (k,) in k equal parts of the signal, drawn as a band below the rows.
        evidence_for: what positive evidence speaks for.
    """
    seconds = len(signal) / fs
    count = max(1, int(np.ceil((seconds - EXTRA) / ROW)))
    rows = np.split(signal, np.round(np.arange(1, count) * ROW * fs).astype(int))
    rows = [row - (np.nanmedian(row) if np.isfinite(row).any() else 0) for row in rows]
    largest = max(np.nanmax(np.abs(row), initial=0) for row in rows)
    reach = float(np.clip(np.ceil(2 * largest) / 2, LOWEST, HIGHEST))  # in steps of 5 mm
    lower = -reach if evidence is None else -reach - BAND
    row_height = (reach - lower) * GAIN
    width = MARGIN + (LEAD_IN + ROW + EXTRA) * SPEED + MARGIN
    height = HEADER + count * row_height + (count - 1) * GAP + FOOTER
    figure = Figure((width / INCH, height / INCH), dpi=DPI)
    figure.subplots_adjust(
        left=MARGIN / width, right=1 - MARGIN / width, bottom=FOOTER / height,
        top=1 - HEADER / height, hspace=GAP / row_height,
    )  # fmt: skip
    largest = 1e-6 if evidence is None else np.nanmax(np.abs(evidence), initial=1e-6)
    colours = ScalarMappable(Normalize(-largest, largest), EVIDENCE)
    for number, row in enumerate(rows):
        start = number * ROW
        ax = figure.add_subplot(count, 1, number + 1)
        _draw_row(ax, row, start, fs, reach)
        if evidence is not None:
            extent = (0, seconds, lower, -reach)
            ax.imshow(evidence[None], EVIDENCE, colours.norm, extent=extent, aspect="auto",
                      interpolation="nearest")  # fmt: skip
            ax.broken_barh([(start - LEAD_IN, LEAD_IN)], (lower, BAND), color="white")
            ax.text(start - LEAD_IN, lower + BAND / 2, " evidence", size=5, va="center")
        ax.set(xlim=(start - LEAD_IN, start + ROW + EXTRA), ylim=(lower, reach), yticks=[])
        ticks = range(start, start + ROW + 1)
        ax.set_xticks(ticks, [f"{start} s", *map(str, ticks[1:])], size=7)

    def text(x: float, y: float, words: str, **style) -> None:
        """Write a line at so many mm from the left and from the top."""
        words = words if len(words) <= LONGEST_TITLE else words[: LONGEST_TITLE - 1] + "…"
        figure.text(x / width, 1 - y / height, words, va="center", **style)

    text(MARGIN, 8, title, size=11, weight="bold")
    text(MARGIN, 13.5, f"lead {lead}, {fs:g} Hz, {SPEED} mm/s, {GAIN} mm/mV", size=8)
    text(MARGIN, height - 6, NOTICE, size=7, color="#555555")
    if evidence is not None:
        bar = figure.add_axes((165 / width, 4.5 / height, 40 / width, 3 / height))
        figure.colorbar(colours, bar, orientation="horizontal", ticks=[])
        text(163, height - 6, "evidence:   against", size=7, ha="right")
        text(207, height - 6, f"for {evidence_for}", size=7)
    save(figure, path)


def _draw_row(ax: Axes, row: np.ndarray, start: float, fs: float, reach: float) -> None:
    """Draw paper with a line per mm and a bold one per 5 mm, calibration pulse and signal."""
    left, right = start - LEAD_IN, start + ROW + EXTRA
    for step, colour, width in ((1, "#f7cfcf", 0.3), (5, "#eeabab", 0.6)):
        style = {"colors": colour, "linewidth": width, "zorder": 0.5}
        ax.vlines(np.arange(left, right + 1e-6, step / SPEED), -reach, reach, **style)
        ax.hlines(np.arange(-reach, reach + 1e-6, step / GAIN), left, right, **style)
    ax.spines[:].set(color="#eeabab", linewidth=0.6)
    pulse = start + np.array([-9, -8, -8, -3, -3, -2]) / SPEED  # 1 mV for 0.2 s
    ax.plot(pulse, [0, 0, 1, 1, 0, 0], color="black", lw=0.8)
    ax.plot(start + np.arange(len(row)) / fs, row.clip(-reach, reach), color="black", lw=0.7)
    if np.nanmax(np.abs(row), initial=0) > reach:
        ax.text(right - 0.1, reach - 0.1, f"cut at ±{reach:g} mV", size=7, ha="right", va="top",
                color=COLOURS[0])  # fmt: skip


@matplotlib.rc_context({"text.parse_math": False})
def draw_timeline(
    path: Path,
    prediction: Prediction,
    descriptions: Mapping[str, str],
    multi_label: bool = False,
    title: str = "",
) -> None:
    """Draw the probabilities of the windows of a long recording, and below them the answers.

    Probabilities are stacked; those of a multi-label network are lines. Where two windows overlap,
    the earlier one is drawn.

    Args:
        path: its suffix determines the format.
        descriptions: of the classes, in words.
    """
    windows, names = prediction.windows, prediction.names
    edges = np.array([windows[0].start, *(window.stop for window in windows)])
    spans = np.column_stack([edges[:-1], np.diff(edges)])  # start and length
    probabilities = np.array([window.probabilities for window in windows])
    colours = COLOURS
    if len(names) > len(COLOURS):
        colours = matplotlib.colormaps["turbo"](np.linspace(0, 1, len(names)))
    colours = dict(zip(names, colours, strict=False)) | {"": GREY}

    figure = Figure((11, 3.4 + 0.17 * len(colours)), dpi=DPI, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2.4, 0.17 * len(colours)))
    figure.suptitle(title[:LONGEST_TITLE])
    tops = probabilities.cumsum(1)
    for name, row, top in zip(names, probabilities.T, tops.T, strict=True):
        if multi_label:
            upper.stairs(row, edges, baseline=None, color=colours[name])
        else:
            upper.stairs(top, edges, baseline=top - row, fill=True, color=colours[name], lw=0)
    upper.set(ylim=(0, 1), ylabel="probability")
    shares = prediction.shares()
    for number, (name, colour) in enumerate(colours.items()):
        present = np.array([name in window.classes if name else window.reason is not None
                         for window in windows])  # fmt: skip
        words = descriptions[name] if name else CANNOT_TELL
        words += f" ({name})" if name not in ("", words) else ""
        # With an edge even the shortest bar is a pixel wide.
        lower.broken_barh(spans[present], (number + 0.1, 0.8), facecolor=colour, edgecolor=colour,
                          lw=0.6, label=f"{words}: {shares[name]:.1%}")  # fmt: skip
    lower.hlines(range(1, len(colours)), edges[0], edges[-1], "#dddddd", lw=0.5, zorder=0.5)
    lower.set(xlim=edges[[0, -1]], xlabel="from the start, h:mm:ss", ylabel="answer")
    lower.set(ylim=(len(colours), 0), yticks=[])
    step = next((step for step in STEPS if np.ptp(edges) / step <= 13), STEPS[-1])
    lower.xaxis.set_major_locator(MultipleLocator(step))
    lower.xaxis.set_major_formatter(lambda second, _: format_time(second))
    figure.legend(loc="outside right upper", title="share of the time")
    figure.text(0.005, 0.005, NOTICE, size=7, color="#555555")
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Write a figure, whole or not at all; the suffix of the path determines the format."""
    with atomic_path(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # letters that the font lacks
        figure.savefig(temporary, dpi=DPI, format=path.suffix.lstrip("."))
