"""Which pictures show an answer: a recording with its evidence, a long one along time and its
clearest windows."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from finetuning.predict.answers import Answer, Prediction
from finetuning.predict.pictures import draw_recording
from finetuning.predict.predictor import Predictor
from finetuning.predict.timeline import draw_timeline
from recordings import LazyRecording


def draw(
    folder: Path,
    name: str,
    recording: LazyRecording,
    lead: int | None,
    predictor: Predictor,
    prediction: Prediction,
    words: Mapping[str, str],
) -> None:
    """Write pictures of one recording: `NAME.png`; of a long one `NAME_timeline.png`, and for each
    answer that it has somewhere the window where this is most probable, `NAME_300s_ANSWER.png`.

    The evidence is that of this answer; of a short recording, of the most probable class.

    Args:
        name: with folders, where it takes them to tell recordings apart.
        lead: number of the one that was looked at; of all, the first is drawn.
        words: what classes are called.
    """
    names = prediction.names
    if len(prediction.windows) == 1:
        shown = [(f"{name}.png", prediction.whole, None)]
    else:
        draw_timeline_of(folder / f"{name}_timeline.png", name, prediction, words)
        shown = [
            (f"{name}_{answer.start:.0f}s_{_in_a_path(words[label])}.png", answer, label)
            for label, answer in clearest(prediction).items()
        ]
    leads = recording.leads or list(map(str, range(recording.count)))
    for file, answer, label in shown:
        start, stop = (round(second * recording.fs) for second in (answer.start, answer.stop))
        signal = recording.read(start, stop, lead)
        evidence, title = None, headline(name, answer, names, words)
        if answer.readable:
            number = names.index(label) if label else int(answer.probabilities.argmax())
            evidence = predictor.evidence(signal, recording.fs)[number]
            label = words[names[number]]
        draw_recording(
            folder / file,
            signal[:, 0],
            recording.fs,
            evidence,
            title,
            leads[lead or 0],
            label or "",
        )


def _in_a_path(text: str) -> str:
    return re.sub(r"[^\w.-]+", "-", text)


def headline(record: str, answer: Answer, names: Sequence[str], words: Mapping[str, str]) -> str:
    """`A00004  atrial fibrillation (A 0.93, N 0.02, …)`: a title for `draw_recording`."""
    title = f"{record}  {answer.say(words)}" + (f": {answer.reason}" if answer.reason else "")
    if answer.readable:
        pairs = zip(names, answer.probabilities, strict=True)
        title += f" ({', '.join(f'{name} {p:.2f}' for name, p in pairs)})"
    return title + f", from {answer.start:.0f} s" * (answer.start > 0)


def draw_timeline_of(
    path: Path, name: str, prediction: Prediction, words: Mapping[str, str]
) -> None:
    windows, names = prediction.windows, prediction.names
    draw_timeline(
        path,
        np.array([window.start for window in windows]),
        np.array([window.stop for window in windows]),
        np.array([window.probabilities for window in windows]),
        names,
        words,
        name,
        np.array([[each in window.classes for each in names] for window in windows]),
        np.array([window.reason is not None for window in windows]),
    )


def clearest(prediction: Prediction) -> dict[str, Answer]:
    """By class that some window has, the window in which it is most probable."""
    found = {}
    for number, name in enumerate(prediction.names):
        having = [answer for answer in prediction.windows if name in answer.classes]
        if having:
            found[name] = max(having, key=lambda answer: answer.probabilities[number])
    return found
