"""Pictures of predictions: a recording on ECG paper with its evidence, a long recording in time."""

import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from finetuning.predict import Answer, Prediction, Predictor
from finetuning.predict.results import CANNOT_TELL, describe
from recordings import LazyRecording
from recordings.quality import fill_missing, mark_impossible
from utils.files import atomic_path

DPI, INCH = 127, 25.4  # 5 pixels per mm, so that all lines of the paper are equally wide
SPEED, GAIN = 25, 10  # mm/s and mm/mV, the usual ECG paper
LEAD_IN, ROW, EXTRA = 0.4, 10, 0.2  # s: calibration pulse, row, by how much the last may be longer
LOWEST, HIGHEST, BAND = 2, 4, 0.4  # mV from the middle of a row to its edge; height of the evidence
MARGIN, HEADER, GAP, FOOTER = 8, 17, 8, 18  # mm
LONGEST_TITLE = 95  # characters that fit on the page
NOTICE = "research software, not a medical device"
# Okabe & Ito: colours that colour-blind people can tell apart.
COLOURS = ("#d55e00", "#0072b2", "#e69f00", "#cc79a7", "#009e73", "#56b4e9", "#f0e442", "#000000")
EVIDENCE = LinearSegmentedColormap.from_list("evidence", [COLOURS[1], "white", COLOURS[0]])
STEPS = (5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400, 43200)  # s from tick to tick


def draw(
    folder: Path, name: str, recording: LazyRecording, predictor: Predictor, prediction: Prediction
) -> None:
    """Draw the first lead of a recording of `Predictor.select_leads`: a short one as `NAME.png`,
    with the evidence for its most probable class, a long one as `NAME_timeline.png` and for each
    class the window that shows it best, `NAME_300s_CLASS.png`."""
    descriptions, pictures = predictor.descriptions, []
    if len(prediction.windows) == 1:
        best = int(prediction.probabilities.argmax())
        pictures.append((f"{name}.png", prediction.whole, best))
    else:
        timeline = folder / f"{name}_timeline.png"
        draw_timeline(timeline, prediction, descriptions, predictor.metadata.multi_label, name)
        for number, label in enumerate(prediction.names):
            windows = [window for window in prediction.windows if label in window.classes]
            if windows:
                clearest = max(windows, key=lambda window: window.probabilities[number])
                words = re.sub(r"[^\w.-]+", "-", descriptions[label])
                pictures.append((f"{name}_{clearest.start:.0f}s_{words}.png", clearest, number))
    for file, answer, number in pictures:
        fs, readable = recording.fs, answer.readable
        signal = recording.read(round(answer.start * fs), round(answer.stop * fs))
        evidence = None
        if readable:
            signal = mark_impossible(signal)  # which leaves gaps in the picture
            evidence = predictor.class_activation_map(fill_missing(signal, fs)[0], fs)[number]
        title, lead = headline(name, answer, descriptions), (recording.leads or ["0"])[0]
        evidence_for = descriptions[prediction.names[number]]
        draw_recording(folder / file, signal[:, 0], fs, evidence, title, lead, evidence_for)


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
    path: Path, signal: np.ndarray, fs: float, evidence: np.ndarray | None = None, title: str = "",
    lead: str = "", evidence_for: str = "",
) -> None:  # fmt: skip
    """Draw one lead (samples,) in mV on ECG paper, in true size at the resolution of the file, in
    rows of 10 s centred on their medians, with the `evidence` (k,), in k equal parts of the signal,
    as a band below them; if positive, it is `evidence_for` a class."""
    count = max(1, int(np.ceil((len(signal) / fs - EXTRA) / ROW)))
    rows = np.split(signal, np.round(np.arange(1, count) * ROW * fs).astype(int))
    rows = [row - (np.nanmedian(row) if np.isfinite(row).any() else 0) for row in rows]
    largest = max(np.nanmax(np.abs(row), initial=0) for row in rows)
    reach = float(np.clip(np.ceil(2 * largest) / 2, LOWEST, HIGHEST))  # in steps of 5 mm
    lower = -reach if evidence is None else -reach - BAND
    row_height = (reach - lower) * GAIN
    width = MARGIN + (LEAD_IN + ROW + EXTRA) * SPEED + MARGIN
    height = HEADER + count * row_height + (count - 1) * GAP + FOOTER
    figure = Figure((width / INCH, height / INCH), dpi=DPI)
    left, bottom, top = MARGIN / width, FOOTER / height, 1 - HEADER / height
    figure.subplots_adjust(left, bottom, 1 - left, top, hspace=GAP / row_height)
    for number, row in enumerate(rows):
        start = number * ROW
        left, right = start - LEAD_IN, start + ROW + EXTRA
        ax = figure.add_subplot(count, 1, number + 1)
        for step, colour, line in ((1, "#f7cfcf", 0.3), (5, "#eeabab", 0.6)):  # mm of the paper
            style = {"colors": colour, "linewidth": line, "zorder": 0.5}
            ax.vlines(np.arange(left, right + 1e-6, step / SPEED), -reach, reach, **style)
            ax.hlines(np.arange(-reach, reach + 1e-6, step / GAIN), left, right, **style)
        ax.spines[:].set(color="#eeabab", linewidth=0.6)
        pulse = start + np.array([-9, -8, -8, -3, -3, -2]) / SPEED  # 1 mV for 0.2 s
        ax.plot(pulse, [0, 0, 1, 1, 0, 0], color="black", lw=0.8)
        ax.plot(start + np.arange(len(row)) / fs, row.clip(-reach, reach), color="black", lw=0.7)
        if np.nanmax(np.abs(row), initial=0) > reach:
            place = {"size": 7, "ha": "right", "va": "top", "color": COLOURS[0]}
            ax.text(right - 0.1, reach - 0.1, f"cut at ±{reach:g} mV", **place)
        if evidence is not None:
            limit = np.nanmax(np.abs(evidence), initial=1e-6)
            image = ax.imshow(
                evidence[None], EVIDENCE, vmin=-limit, vmax=limit, aspect="auto",
                interpolation="nearest", extent=(0, len(signal) / fs, lower, -reach),
            )  # fmt: skip
            ax.broken_barh([(left, LEAD_IN)], (lower, BAND), color="white")
            ax.text(left, lower + BAND / 2, " evidence", size=5, va="center")
        ax.set(xlim=(left, right), ylim=(lower, reach), yticks=[])
        ticks = range(start, start + ROW + 1)
        ax.set_xticks(ticks, [f"{start} s", *map(str, ticks[1:])], size=7)

    def text(x: float, y: float, words: str, **style) -> None:  # mm from the left and the top
        figure.text(x / width, 1 - y / height, words[:LONGEST_TITLE], va="center", **style)

    text(MARGIN, 8, title, size=11, weight="bold")
    text(MARGIN, 13.5, f"lead {lead}, {fs:g} Hz, {SPEED} mm/s, {GAIN} mm/mV", size=8)
    text(MARGIN, height - 6, NOTICE, size=7, color="#555555")
    if evidence is not None:
        bar = figure.add_axes((165 / width, 4.5 / height, 40 / width, 3 / height))
        figure.colorbar(image, bar, orientation="horizontal", ticks=[])
        text(163, height - 6, "evidence:   against", size=7, ha="right")
        text(207, height - 6, f"for {evidence_for}", size=7)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=DPI, format="png")


@matplotlib.rc_context({"text.parse_math": False})
def draw_timeline(
    path: Path, prediction: Prediction, descriptions: Mapping[str, str], multi_label: bool = False,
    title: str = "",
) -> None:  # fmt: skip
    """Draw the probabilities of the windows of a long recording, stacked or as lines (several
    labels), and the answers below; where windows overlap, the earlier counts."""
    windows, names, shares = prediction.windows, prediction.names, prediction.shares()
    edges = np.array([windows[0].start, *(window.stop for window in windows)])
    spans = np.column_stack([edges[:-1], np.diff(edges)])  # start and length
    many = matplotlib.colormaps["turbo"](np.linspace(0, 1, len(names)))
    colours = dict(zip(names, many if len(names) > len(COLOURS) else COLOURS, strict=False))
    colours[""] = "#bdbdbd"
    figure = Figure((11, 3.4 + 0.17 * len(colours)), dpi=DPI, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2.4, 0.17 * len(colours)))
    figure.suptitle(title[:LONGEST_TITLE])
    top = np.zeros(len(windows))
    for name, row in zip(names, np.array([w.probabilities for w in windows]).T, strict=True):
        top, bottom = (row, None) if multi_label else (top + row, top)
        upper.stairs(top, edges, baseline=bottom, fill=not multi_label, color=colours[name])
    upper.set(ylim=(0, 1), ylabel="probability")
    for number, (name, colour) in enumerate(colours.items()):
        present = [name in w.classes if name else w.reason is not None for w in windows]
        words = descriptions.get(name, CANNOT_TELL)
        words += f" ({name})" if name not in ("", words) else ""
        # With an edge even the shortest bar is a pixel wide.
        lower.broken_barh(spans[present], (number + 0.1, 0.8), facecolor=colour, edgecolor=colour,
                          lw=0.6, label=f"{words}: {shares[name]:.1%}")  # fmt: skip
    lower.hlines(range(1, len(colours)), edges[0], edges[-1], "#dddddd", lw=0.5, zorder=0.5)
    lower.set(xlim=edges[[0, -1]], xlabel="from the start, h:mm:ss", ylabel="answer",
              ylim=(len(colours), 0), yticks=[])  # fmt: skip
    step = next((step for step in STEPS if np.ptp(edges) / step <= 13), STEPS[-1])
    lower.xaxis.set_major_locator(MultipleLocator(step))
    lower.xaxis.set_major_formatter(lambda second, _: str(timedelta(seconds=round(second))))
    figure.legend(loc="outside right upper", title="share of the time")
    figure.text(0.005, 0.005, NOTICE, size=7, color="#555555")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=DPI, format="png")
