"""Picture of a long recording: what its windows are answered, along time."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from finetuning.predict.answers import CANNOT_TELL, NONE
from finetuning.predict.pictures import COLOURS, DPI, FOOTER, fit, save

UNKNOWN, NOTHING = "#bdbdbd", "#e8e8e8"
# s from one tick to the next; so many ticks at most.
STEPS = (5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 4 * 3600, 12 * 3600, 24 * 3600)
TICKS = 13


def draw_timeline(
    path: Path,
    starts: np.ndarray,
    stops: np.ndarray,
    probabilities: np.ndarray,
    classes: Sequence[str],
    names: Mapping[str, str] | None = None,
    title: str = "",
    answers: np.ndarray | None = None,
    untold: np.ndarray | None = None,
) -> None:
    """Windows of a long recording: probabilities of each, stacked, and its answers.

    Where there are more classes than colours, the least probable ones are drawn as one.

    Args:
        path: of the image; its ending tells the format.
        starts, stops: (n,) s, in order; what two windows share is the earlier one's.
        probabilities: (n, classes); rows of NaN where a window cannot be read. Of classes that may
            occur together they do not sum to one, and lines are drawn.
        names: in words, of classes that have one.
        answers: (n, classes), which classes it has; the most probable one by default.
        untold: (n,), where one cannot tell; by default where there is no answer.
    """
    readable = np.isfinite(probabilities).all(1)
    if answers is None:
        best = np.nan_to_num(probabilities).argmax(1)
        answers = readable[:, None] & (best[:, None] == np.arange(len(classes)))
    nothing = ~answers.any(1)
    untold = nothing if untold is None else untold
    starts = np.maximum(starts, np.concatenate([[-np.inf], stops[:-1]]))
    words = [f"{names[c]} ({c})" if c in (names or {}) else c for c in classes]
    probabilities, answers, words = _fewer(probabilities, answers, words)
    lanes = [*zip(words, COLOURS, answers.T, strict=False), (CANNOT_TELL, UNKNOWN, untold)]
    if (nothing & ~untold).any():
        lanes.append((NONE, NOTHING, nothing & ~untold))
    figure = Figure((11, 3.4 + 0.17 * len(lanes)), dpi=DPI, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2.4, 0.17 * len(lanes)))
    above = figure.suptitle(title, parse_math=False)
    fit(above, figure.bbox.width / 2, FigureCanvasAgg(figure).get_renderer())
    _draw_probabilities(upper, starts, stops, probabilities)
    shares = _draw_answers(lower, starts, stops, lanes)
    legend = figure.legend(handles=shares, loc="outside right upper", title="share of the time")
    for text in legend.get_texts():
        text.set_parse_math(False)
    _draw_clock(lower, starts[0], stops[-1])
    figure.text(0.005, 0.005, FOOTER, size=7, color="#555555")
    save(figure, path)


def _fewer(
    probabilities: np.ndarray, answers: np.ndarray, words: list[str]
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """As many classes as there are colours, the last of them all the rest."""
    kept = len(COLOURS) - 1
    if len(words) <= len(COLOURS):
        return probabilities, answers, words
    order = np.argsort(-np.nan_to_num(probabilities).mean(0), kind="stable")
    rest = probabilities[:, order[kept:]].sum(1, keepdims=True).clip(max=1)
    others = answers[:, order[kept:]].any(1, keepdims=True)
    answers = np.hstack([answers[:, order[:kept]], others])
    words = [*(words[number] for number in order[:kept]), f"{len(words) - kept} other classes"]
    return np.hstack([probabilities[:, order[:kept]], rest]), answers, words


def _draw_probabilities(
    axes: Axes, starts: np.ndarray, stops: np.ndarray, probabilities: np.ndarray
) -> None:
    """Constant over each window; grey where there are none."""
    readable = np.isfinite(probabilities).all(1)
    unread = np.c_[starts, stops - starts][~readable]
    axes.broken_barh(unread, (0, 1), color=UNKNOWN, lw=0)
    gap = np.append(starts[1:] > stops[:-1] + 1e-3, True)
    drawn = np.c_[np.ones((len(starts), 2), bool), gap].ravel()
    x = np.c_[starts, stops, stops].ravel()[drawn]
    y = np.repeat(probabilities, 3, 0)
    y[2::3] = np.nan
    y = y[drawn].T  # (classes, points)
    if np.allclose(probabilities[readable].sum(1), 1, atol=0.01):
        edges = np.vstack([np.zeros(len(x)), np.cumsum(y, 0)])
        for low, high, colour in zip(edges[:-1], edges[1:], COLOURS, strict=False):
            axes.fill_between(x, low, high, color=colour, lw=0)
    else:
        for line, colour in zip(y, COLOURS, strict=False):
            axes.plot(x, line, color=colour, lw=1)
    axes.set(ylim=(0, 1), ylabel="probability")


def _draw_answers(
    axes: Axes,
    starts: np.ndarray,
    stops: np.ndarray,
    lanes: list[tuple[str, str, np.ndarray]],
) -> list[Patch]:
    """A lane for each answer, so that a single window is seen; what a legend says of them.

    Args:
        lanes: words, colour and (n,) whether, from above.
    """
    whole, legend = (stops - starts).sum(), []
    for lane, (words, colour, held) in enumerate(lanes):
        spans = np.c_[starts, stops - starts][held]
        # An edge makes it a pixel wide at least.
        axes.broken_barh(spans, (lane + 0.1, 0.8), facecolor=colour, edgecolor=colour, lw=0.6)
        legend.append(Patch(color=colour, label=f"{words}: {_percent(spans[:, 1].sum() / whole)}"))
    axes.set(ylim=(len(lanes), 0), yticks=[], ylabel="answer")
    axes.hlines(range(1, len(lanes)), starts[0], stops[-1], "#dddddd", lw=0.5, zorder=0.5)
    return legend


def _percent(share: float) -> str:
    return "< 1 %" if 0 < share < 0.01 else f"{share:.0%}".replace("%", " %")


def _draw_clock(axes: Axes, start: float, stop: float) -> None:
    """Hours and minutes along the time axis, and seconds where ticks are closer than a minute."""
    step = next((step for step in STEPS if (stop - start) / step <= TICKS), STEPS[-1])
    seconds = step < 60
    ticks = np.arange(np.ceil(start / step) * step, stop + 1e-6, step)
    words = [
        f"{int(t // 3600)}:{int(t // 60 % 60):02}" + (f":{int(t % 60):02}" if seconds else "")
        for t in ticks
    ]
    axes.set_xticks(ticks, words)
    axes.set(xlim=(start, stop), xlabel=f"from the start, {'h:mm:ss' if seconds else 'h:mm'}")
