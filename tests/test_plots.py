"""Pictures are in true size and show what is in the numbers."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from finetuning.predict import Answer, Prediction, plots
from finetuning.predict.plots import COLOURS, draw_recording, draw_timeline
from recordings import LazyRecording
from tests.helpers import make_metadata

MM = 5  # pixels
NAMES = {"A": "atrial fibrillation", "N": "normal rhythm"}


@pytest.fixture
def figure(monkeypatch, tmp_path):
    """Draw, and return the figure instead of writing the file."""
    drawn = []

    def savefig(figure, path, **_):
        path.touch()
        drawn.append(figure)

    monkeypatch.setattr(plots.Figure, "savefig", savefig)

    def draw(function, *args, **kwargs):
        function(tmp_path / "picture.png", *args, **kwargs)
        drawn[-1].canvas.draw()
        return drawn.pop()

    return draw


def wave(seconds, fs=250, height=1.0):
    return height * np.sin(2 * np.pi * np.arange(round(seconds * fs)) / fs)


def texts(figure):
    found = [*figure.texts, *(text for axes in figure.axes for text in axes.texts)]
    return [text.get_text() for text in found]


def papers(figure):
    """Axes of the rows: those in mV."""
    return [axes for axes in figure.axes if axes.get_ylim()[0] < 0]


def test_the_scale_is_25_mm_per_s_and_10_mm_per_mv(figure):
    for axes in papers(figure(draw_recording, wave(25), 250, np.ones(10))):
        start = 10 * round(axes.get_xlim()[0] / 10)
        origin, time, mv = axes.transData.transform([(start, 0), (start + 0.2, 0), (start, 1)])
        np.testing.assert_allclose(time - origin, (5 * MM, 0), atol=1e-6)
        np.testing.assert_allclose(mv - origin, (0, 10 * MM), atol=1e-6)
        pulse = axes.lines[0].get_xydata()
        assert np.ptp(pulse[:, 1]) == 1
        assert np.ptp(pulse[pulse[:, 1] == 1, 0]) == pytest.approx(0.2)


def test_the_file_has_the_size_that_its_resolution_says(tmp_path):
    draw_recording(tmp_path / "a.png", wave(9), 250, title="a")
    header = (tmp_path / "a.png").read_bytes()
    at = header.index(b"pHYs") + 4
    assert int.from_bytes(header[at : at + 4]) == 1000 * MM  # pixels per metre
    assert imread(tmp_path / "a.png").shape[:2] == (MM * (17 + 40 + 18), MM * (8 + 265 + 8))
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(("seconds", "count"), [(3, 1), (10.1, 1), (10.3, 2), (30, 3)])
def test_rows_of_ten_seconds(figure, seconds, count):
    rows = papers(figure(draw_recording, wave(seconds), 250))
    assert len(rows) == count
    shown = np.concatenate([axes.lines[1].get_xdata() for axes in rows])
    np.testing.assert_allclose(shown, np.arange(round(seconds * 250)) / 250)


@pytest.mark.parametrize(("height", "reach", "cut"), [(0.1, 2, 0), (2.2, 2.5, 0), (9, 4, 2)])
def test_rows_grow_with_the_signal(figure, height, reach, cut):
    signal = wave(30, height=height) + 70
    signal[:2500] = np.nan  # missing samples are left out
    drawn = figure(draw_recording, signal, 250)
    assert [axes.get_ylim() for axes in papers(drawn)] == [(-reach, reach)] * 3
    assert texts(drawn).count("cut at ±4 mV") == cut


def test_evidence_is_drawn_in_its_place(tmp_path):
    evidence = np.array([-1, 0, 1, 0.5])
    draw_recording(tmp_path / "a.png", wave(20), 250, evidence)
    image = imread(tmp_path / "a.png")[..., :3]
    for seconds, colour in ((1, COLOURS[1]), (4.9, COLOURS[1]), (5.1, "white"), (11, COLOURS[0])):
        row = int(seconds // 10)
        y = 17 + 40 + 2 + row * (40 + 4 + 8)
        x = 8 + 10 + 25 * (seconds - 10 * row)
        np.testing.assert_allclose(image[y * MM, int(x * MM)], to_rgb(colour), atol=0.02)


def test_words_on_the_paper(figure):
    answer = Answer(0, 12, np.array([0.93, 0.02, 0.05]), ("A",))
    title = plots.headline("A00004", answer, NAMES | {"O": "O"})
    assert title == "A00004  atrial fibrillation (A 0.93, N 0.02, O 0.05)"
    drawn = figure(draw_recording, wave(12), 200, np.zeros(3), title, "$V_", "atrial fibrillation")
    expected = {title, "for atrial fibrillation", "lead $V_, 200 Hz, 25 mm/s, 10 mm/mV"}
    assert expected | {plots.NOTICE, "evidence:   against"} <= {*texts(drawn)}


@pytest.mark.parametrize("length", [90, 1000])
def test_long_titles_stay_on_the_page(figure, length):
    drawn = figure(draw_recording, wave(12), 250, np.ones(3), "n" * length, "II")
    assert all(text.get_window_extent().x1 <= drawn.bbox.width for text in drawn.texts)
    assert any(text.startswith("nnn") for text in texts(drawn))


def test_titles_give_the_reason():
    unsure = Answer(30, 60, np.array([0.4, 0.3]), (), "why")
    none, unread = Answer(0, 9, np.array([0.4, 0.3]), ()), Answer(0, 9, np.full(2, np.nan), (), "x")
    titles = [plots.headline("r", a, {"a": "a", "b": "b"}) for a in (unsure, none, unread)]
    assert titles[0] == "r  cannot tell: why (a 0.40, b 0.30), from 30 s"
    assert titles[1:] == ["r  none of these (a 0.40, b 0.30)", "r  cannot tell: x"]


def test_each_class_of_a_long_recording_has_its_picture(tmp_path, monkeypatch):
    """Even if two are most probable in the same window."""
    drawn = {}

    class Fake:
        metadata = make_metadata(classes=["AF", "PVC", "~"], dataset="mine", multi_label=True)

        def class_activation_map(self, signal, fs):
            return np.array([1.0, 2.0, 3.0])

    def draw(path, signal, fs, evidence, title, lead, evidence_for):
        drawn[str(path.relative_to(tmp_path))] = (float(evidence), evidence_for)

    monkeypatch.setattr(plots, "draw_recording", draw)
    monkeypatch.setattr(plots, "draw_timeline", lambda path, *_: drawn.update({path.name: None}))
    answers = [
        Answer(0, 35, np.array([0.6, 0.9, 0.1]), ("AF", "PVC")),
        Answer(35, 70, np.array([0.4, 0.1, 0.7]), ("~",)),
    ]
    recording = LazyRecording.of_array(np.zeros((70 * 250, 1)), 1, 250, None)
    prediction = Prediction(Fake.metadata.classes, answers[0], answers)
    plots.draw(tmp_path, "a/r 1.csv", recording, Fake(), prediction)
    assert drawn == {
        "r 1.csv_timeline.png": None,
        "a/r 1.csv_0s_AF.png": (1, "AF"),
        "a/r 1.csv_0s_PVC.png": (2, "PVC"),
        "a/r 1.csv_35s_-.png": (3, "~"),
    }


def made_prediction(probabilities, stops, classes, names="01") -> Prediction:
    """Windows of 30 s that end at `stops`; rows of NaN are unreadable."""
    windows = [
        Answer(stop - 30, stop, np.array(p), tuple(held), "flat" if np.isnan(p[0]) else None)
        for p, stop, held in zip(probabilities, stops, classes, strict=True)
    ]
    return Prediction(names, windows[0], windows)


def legend(drawn):
    return [text.get_text() for text in drawn.legends[0].get_texts()]


def lanes(drawn):
    """Spans of time in each lane, from above."""
    boxes = [
        [path.get_extents() for path in collection.get_paths()]
        for collection in drawn.axes[1].collections
    ]
    return [[(box.x0, box.x1) for box in lane] for lane in boxes[:-1]]  # the last are lines


def test_the_timeline_shows_answers_and_their_shares(figure):
    probabilities = [[0.9, 0.1], [np.nan, np.nan], [0.2, 0.8], [0.3, 0.7]]
    # The last window overlaps by 15 s.
    prediction = made_prediction(probabilities, [30, 60, 90, 105], ["A", "", "N", "N"], names="AN")
    drawn = figure(draw_timeline, prediction, NAMES, title="$title")
    assert legend(drawn) == [
        "atrial fibrillation (A): 25.0%", "normal rhythm (N): 50.0%", "cannot tell: 25.0%",
    ]  # fmt: skip
    assert lanes(drawn) == [[(0, 30)], [(60, 90), (90, 105)], [(30, 60)]]
    assert drawn.get_suptitle() == "$title"
    tops = [np.nanmax(patch.get_data().values) for patch in drawn.axes[0].patches]
    assert tops == pytest.approx([0.9, 1.0])


def test_classes_of_a_multi_label_network(figure):
    probabilities = [[0.9, 0.8], [0.1, 0.9], [0.0, 0.0], [np.nan] * 2]
    answers = [("$A", "N"), ("N",), (), ()]
    prediction = made_prediction(probabilities, [30, 60, 90, 120], answers, names=["$A", "N"])
    drawn = figure(draw_timeline, prediction, {"$A": "$A", "N": "N"}, multi_label=True)
    assert legend(drawn) == ["$A: 25.0%", "N: 50.0%", "cannot tell: 25.0%"]
    assert lanes(drawn) == [[(0, 30)], [(0, 30), (30, 60)], [(90, 120)]]
    assert not any(patch.get_fill() for patch in drawn.axes[0].patches)


def test_more_classes_than_colours(figure):
    names = [str(number) for number in range(27)]
    prediction = made_prediction([[1 / 27] * 27] * 2, [30, 60], ["3", "5"], names=names)
    drawn = figure(draw_timeline, prediction, dict(zip(names, names, strict=True)))
    assert len(legend(drawn)) == 28 and legend(drawn)[3:6] == ["3: 50.0%", "4: 0.0%", "5: 50.0%"]
    assert len({patch.get_facecolor() for patch in drawn.axes[0].patches}) == 27


@pytest.mark.parametrize(("count", "words"), [(4, "0:00:10"), (2880, "2:00:00")])
def test_the_time_axis(figure, count, words):
    stops = 30 * np.arange(1, count + 1)
    prediction = made_prediction([[0.3, 0.7]] * count, stops, ["1"] * count)
    _, axes = figure(draw_timeline, prediction, {"0": "0", "1": "1"}).axes
    labels = [t.get_text() for t in axes.get_xticklabels() if 0 <= t.get_position()[0] <= stops[-1]]
    assert labels[:2] == ["0:00:00", words] and len(labels) == 13
