"""Which pictures show an answer: a recording with its evidence, a long one along time and its
clearest windows."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from finetuning.answers import CANNOT_TELL, Answer, Prediction
from finetuning.pictures import draw_recording, headline
from finetuning.predictor import Predictor
from finetuning.timeline import draw_timeline
from utils.opened import OpenRecording


def draw(
    folder: Path,
    name: str,
    recording: OpenRecording,
    lead: int | None,
    predictor: Predictor,
    prediction: Prediction,
    words: Mapping[str, str],
) -> None:
    """Write pictures of one recording: `NAME.png`; of a long one `NAME_timeline.png`, and for each
    answer that it has somewhere the window where this is most probable, `NAME_300s_ANSWER.png`.

    Args:
        lead: number of the one that was looked at; of all, the first is drawn.
        words: what classes are called.
    """
    stem = folder / re.sub(r"[^\w.-]+", "_", name)
    if len(prediction.windows) == 1:
        shown = {f"{stem}.png": prediction.whole}
    else:
        draw_timeline_of(Path(f"{stem}_timeline.png"), name, prediction, words)
        shown = {
            f"{stem}_{answer.start:.0f}s_{re.sub(r'[^a-z0-9]+', '-', words[label])}.png": answer
            for label, answer in clearest(prediction).items()
        }
    leads = recording.leads or list(map(str, range(recording.count)))
    for path, answer in shown.items():
        start, stop = (round(second * recording.fs) for second in (answer.start, answer.stop))
        signal = recording.read(start, stop, lead)
        evidence, title, label = None, f"{name}  {CANNOT_TELL}: {answer.reason}", ""
        if answer.readable:
            best = int(answer.probabilities.argmax())
            evidence = predictor.evidence(signal, recording.fs)[best]
            title = headline(name, answer.probabilities, prediction.names, words)
            label = words[prediction.names[best]]
        if answer.start:
            title = f"{title}, from {answer.start:.0f} s"
        shown_lead = leads[lead or 0]
        draw_recording(Path(path), signal[:, 0], recording.fs, evidence, title, shown_lead, label)


def draw_timeline_of(
    path: Path, name: str, prediction: Prediction, words: Mapping[str, str]
) -> None:
    windows, names = prediction.windows, prediction.names
    answers = [names.index(w.classes[0]) if w.classes else -1 for w in windows]
    draw_timeline(
        path,
        np.array([window.start for window in windows]),
        np.array([window.stop for window in windows]),
        np.array([window.probabilities for window in windows]),
        names,
        words,
        name,
        np.array(answers),
    )


def clearest(prediction: Prediction) -> dict[str, Answer]:
    """By class that some window has, the window in which it is most probable."""
    found = {}
    for number, name in enumerate(prediction.names):
        having = [answer for answer in prediction.windows if name in answer.classes]
        if having:
            found[name] = max(having, key=lambda answer: answer.probabilities[number])
    return found
