"""Pictures are in true size, and say what is in the numbers."""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from finetuning.predict import pictures, plots, timeline
from finetuning.predict.answers import Answer, Prediction
from finetuning.predict.pictures import COLOURS, draw_recording
from finetuning.predict.timeline import draw_timeline
from recordings import LazyRecording

MM = 5  # pixels
NAMES = {"A": "atrial fibrillation", "N": "normal rhythm"}


@pytest.fixture
def figure(monkeypatch, tmp_path):
    """Draw, and give the figure instead of the file."""

    def draw(function, *args, **kwargs):
        function(tmp_path / "picture.png", *args, **kwargs)
        return drawn.pop()

    drawn = []
    for module in (pictures, timeline):
        monkeypatch.setattr(module, "save", lambda figure, path: drawn.append(figure))
    return draw


def wave(seconds, fs=250, height=1.0):
    return height * np.sin(2 * np.pi * np.arange(round(seconds * fs)) / fs)


def texts(figure):
    figure.canvas.draw()
    found = [*figure.texts, *(text for axes in figure.axes for text in axes.texts)]
    return [text.get_text() for text in found]


def papers(figure):
    """Axes of the rows: those in mV."""
    return [axes for axes in figure.axes if axes.get_ylim()[0] < 0]


def pixels(axes, x, y):
    return axes.transData.transform((x, y))


def test_scale_is_that_of_the_usual_paper(figure):
    for axes in papers(figure(draw_recording, wave(25), 250, np.ones(10))):
        start = 10 * round(axes.get_xlim()[0] / 10)
        origin = pixels(axes, start, 0)
        np.testing.assert_allclose(pixels(axes, start + 0.2, 0) - origin, (5 * MM, 0), atol=1e-6)
        np.testing.assert_allclose(pixels(axes, start, 1) - origin, (0, 10 * MM), atol=1e-6)
        pulse = axes.lines[0].get_xydata()
        assert np.ptp(pulse[:, 1]) == 1
        assert np.ptp(pulse[pulse[:, 1] == 1, 0]) == pytest.approx(0.2)
        # The middle of the paper is on whole pixels, so that all its lines are.
        np.testing.assert_allclose(origin, np.round(origin), atol=1e-6)


def test_file_has_the_size_that_its_resolution_says(tmp_path):
    draw_recording(tmp_path / "a.png", wave(9), 250, title="a")
    image = imread(tmp_path / "a.png")
    header = (tmp_path / "a.png").read_bytes()
    at = header.index(b"pHYs") + 4
    assert int.from_bytes(header[at : at + 4]) == 1000 * MM  # pixels to a metre
    assert image.shape[:2] == (MM * (8 + 9 + 40 + 8 + 4 + 8), MM * (8 + 10 + 255 + 8))
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("seconds", "widths"),
    [(3, [75]), (10, [250]), (10.1, [255]), (10.3, [250, 10]), (30, [250] * 3), (15, [250, 125])],
)
def test_rows_of_ten_seconds(figure, seconds, widths):
    rows = papers(figure(draw_recording, wave(seconds), 250))
    found = [axes.get_window_extent().width / MM - pictures.LEAD_IN for axes in rows]
    np.testing.assert_allclose(found, widths)
    shown = np.concatenate([axes.lines[1].get_xdata() for axes in rows])
    np.testing.assert_allclose(shown, np.arange(len(shown)) / 250)
    assert len(shown) == round(seconds * 250)


def test_of_a_long_recording_the_beginning(figure):
    drawn = figure(draw_recording, wave(200), 250, lead="II")
    assert len(papers(drawn)) == 12
    assert "lead II, 250 Hz, 25 mm/s, 10 mm/mV, the first 120 of 200 s" in texts(drawn)


@pytest.mark.parametrize(("height", "reach", "cut"), [(0.1, 2, 0), (2.2, 2.5, 0), (9, 4, 1)])
def test_rows_grow_with_the_signal(figure, height, reach, cut):
    drawn = figure(draw_recording, wave(10, height=height) + 70, 250)
    (axes,) = papers(drawn)
    assert axes.get_ylim() == (-reach, reach)
    assert texts(drawn).count("cut at ±4 mV") == cut


def test_missing_samples_are_left_out(figure):
    signal = wave(20)
    signal[:2500] = np.nan
    assert len(papers(figure(draw_recording, signal, 250))) == 2


def test_evidence_is_where_and_what_it_is(tmp_path):
    evidence = np.array([-1, 0, 1, 0.5])
    draw_recording(tmp_path / "a.png", wave(20), 250, evidence)
    image = imread(tmp_path / "a.png")[..., :3]
    for seconds, colour in ((1, COLOURS[1]), (4.9, COLOURS[1]), (5.1, "white"), (11, COLOURS[0])):
        row = int(seconds // 10)
        y = 8 + 9 + 40 + 2 + row * (40 + 4 + 8)
        x = 8 + 10 + 25 * (seconds - 10 * row)
        np.testing.assert_allclose(image[y * MM, int(x * MM)], to_rgb(colour), atol=0.02)


def test_words_on_the_paper(figure):
    answer = Answer(0, 12, np.array([0.93, 0.02, 0.05]), ("A",))
    title = plots.headline("A00004", answer, list("ANO"), NAMES | {"O": "O"})
    assert title == "A00004  atrial fibrillation (A 0.93, N 0.02, O 0.05)"
    drawn = figure(
        draw_recording, wave(12), 200, np.ones(3), title, lead="$V_", answer="atrial fibrillation"
    )
    found = texts(drawn)
    assert {title, "for atrial fibrillation", "evidence:   against", pictures.FOOTER} <= {*found}
    assert "lead $V_, 200 Hz, 25 mm/s, 10 mm/mV" in found and found.count("$V_") == 2


def test_a_title_says_what_the_answer_is():
    unsure = Answer(30, 60, np.array([0.4, 0.3, 0.3]), (), "confidence is below 0.5")
    none, unread = np.array([0.4, 0.3, 0.3]), np.full(3, np.nan)
    titles = [
        plots.headline("r", answer, list("abc"), {})
        for answer in (unsure, Answer(0, 9, none, ()), Answer(0, 9, unread, (), "flat"))
    ]
    assert titles == [
        "r  cannot tell: confidence is below 0.5 (a 0.40, b 0.30, c 0.30), from 30 s",
        "r  none of these (a 0.40, b 0.30, c 0.30)",
        "r  cannot tell: flat",
    ]


def test_each_class_of_a_long_recording_has_its_picture(tmp_path, monkeypatch):
    """Also where both are clearest in one window, and nobody has words for them."""
    drawn = {}

    def draw(path, signal, fs, evidence, title, lead, label):
        drawn[str(path.relative_to(tmp_path))] = (float(evidence), label)

    class Network:
        def evidence(self, signal, fs):
            return np.array([1.0, 2.0, 3.0])

    monkeypatch.setattr(plots, "draw_recording", draw)
    monkeypatch.setattr(plots, "draw_timeline", lambda path, *_: drawn.update({path.name: None}))
    names, signal = ["AF", "PVC", "~"], np.zeros((70 * 250, 1))
    answers = [
        Answer(0, 35, np.array([0.6, 0.9, 0.1]), ("AF", "PVC")),
        Answer(35, 70, np.array([0.4, 0.1, 0.7]), ("~",)),
    ]
    recording = LazyRecording.of_array(signal, 1, 250, None)
    prediction, words = Prediction(names, answers[0], answers), dict(zip(names, names, strict=True))
    plots.draw(tmp_path, "a/r 1.csv", recording, 0, Network(), prediction, words)
    assert drawn == {
        "r 1.csv_timeline.png": None,
        "a/r 1.csv_0s_AF.png": (1, "AF"),
        "a/r 1.csv_0s_PVC.png": (2, "PVC"),
        "a/r 1.csv_35s_-.png": (3, "~"),
    }


@pytest.mark.parametrize("length", [40, 200, 1000])
def test_nothing_reaches_beyond_the_page(figure, length):
    drawn = figure(draw_recording, wave(12), 250, np.ones(3), "n" * length, "II", "o" * length)
    shown = texts(drawn)
    assert any(text.startswith("nnn") for text in shown)
    for text in drawn.texts:
        extent = text.get_window_extent()
        assert extent.x0 >= 0 and extent.x1 <= drawn.bbox.width


def test_flat_evidence_is_white(figure):
    drawn = figure(draw_recording, wave(5), 250, np.zeros(4))
    assert drawn.axes[1].images[0].norm(0.0) == 0.5


def legend(drawn):
    return [text.get_text() for text in drawn.legends[0].get_texts()]


def lanes(drawn):
    """Spans of time in each lane, from above."""
    drawn.canvas.draw()
    found = []
    for collection in drawn.axes[1].collections:
        boxes = [path.get_extents() for path in collection.get_paths()]
        found.append([(box.x0, box.x1) for box in boxes])
    return found[:-1]  # the last are the lines between


def test_timeline_shows_each_answer_and_its_share(figure):
    starts = np.array([0, 30, 60, 75.0])  # the last one shares 15 s
    probabilities = np.array([[0.9, 0.1], [np.nan, np.nan], [0.2, 0.8], [0.3, 0.7]])
    drawn = figure(draw_timeline, starts, starts + 30, probabilities, "AN", NAMES, "$title")
    assert legend(drawn) == [
        "atrial fibrillation (A): 29 %", "normal rhythm (N): 43 %", "cannot tell: 29 %",
    ]  # fmt: skip
    assert lanes(drawn) == [[(0, 30)], [(60, 90), (90, 105)], [(30, 60)]]
    assert drawn.get_suptitle() == "$title"
    grey, *stack = drawn.axes[0].collections
    assert len(grey.get_paths()) == 1 and len(stack) == 2
    tops = stack[1].get_paths()
    assert len(tops) == 2 and all(path.get_extents().y1 == 1 for path in tops)


def test_answers_that_the_caller_withholds(figure):
    starts, probabilities = np.arange(3.0), np.array([[0.9, 0.1]] * 3)
    answers = np.array([[True, False], [False, False], [False, True]])
    drawn = figure(draw_timeline, starts, starts + 1, probabilities, ["$A$", "N"], answers=answers)
    assert legend(drawn) == ["$A$: 33 %", "N: 33 %", "cannot tell: 33 %"]
    assert not drawn.axes[0].collections[0].get_paths()


def test_gaps_are_left_open(figure):
    starts, probabilities = np.array([0, 10, 50.0]), np.array([[0.9, 0.1]] * 3)
    drawn = figure(draw_timeline, starts, starts + 10, probabilities, "AN")
    spans = [path.get_extents() for path in drawn.axes[0].collections[1].get_paths()]
    assert [(span.x0, span.x1) for span in spans] == [(0, 20), (50, 60)]


def test_classes_that_may_occur_together_are_lines(figure):
    probabilities = np.array([[0.9, 0.8], [0.1, 0.9]])
    drawn = figure(draw_timeline, np.arange(2.0), np.arange(1, 3.0), probabilities, "AN")
    assert [line.get_ydata()[0] for line in drawn.axes[0].lines] == [0.9, 0.8]


def test_each_of_several_answers_has_its_lane(figure):
    starts, probabilities = np.arange(4.0), np.array([[0.9, 0.8], [0.1, 0.9], [0, 0], [np.nan] * 2])
    answers, untold = probabilities > 0.5, np.array([False, False, False, True])
    drawn = figure(
        draw_timeline, starts, starts + 1, probabilities, "AN", answers=answers, untold=untold
    )
    assert legend(drawn) == ["A: 25 %", "N: 50 %", "cannot tell: 25 %", "none of these: 25 %"]
    assert lanes(drawn) == [[(0, 1)], [(0, 1), (1, 2)], [(3, 4)], [(2, 3)]]


def test_more_classes_than_colours(figure):
    probabilities = np.full((4, 12), 0.02)
    probabilities[:, 5], probabilities[3, 5], probabilities[3, 0] = 0.78, 0.02, 0.78
    names = [f"c{number}" for number in range(12)]
    drawn = figure(draw_timeline, np.arange(4.0), np.arange(1, 5.0), probabilities, names)
    words = legend(drawn)
    assert words[:2] == ["c5: 75 %", "c0: 25 %"]
    assert words[-2:] == ["5 other classes: 0 %", "cannot tell: 0 %"] and len(words) == 9
    assert len(drawn.axes[0].collections) == 9  # all of them are stacked, over what is grey


def test_long_title_ends_before_the_legend(figure):
    drawn = figure(draw_timeline, np.zeros(1), np.ones(1), np.ones((1, 1)), "A", title="n" * 300)
    drawn.canvas.draw()
    right = drawn._suptitle.get_window_extent().x1
    assert right < drawn.legends[0].get_window_extent().x0


@pytest.mark.parametrize(
    ("windows", "words", "unit"),
    [(4, ["0:00:00", "0:00:10"], "h:mm:ss"), (2880, ["0:00", "2:00"], "h:mm")],
)
def test_clock(figure, windows, words, unit):
    starts = np.arange(windows) * 30.0
    probabilities = np.tile([0.3, 0.7], (windows, 1))
    (_, axes) = figure(draw_timeline, starts, starts + 30, probabilities, "AN").axes
    found = [text.get_text() for text in axes.get_xticklabels()]
    assert found[:2] == words and len(found) == 13
    assert axes.get_xlabel() == f"from the start, {unit}"


def test_one_unreadable_window_is_a_picture_too(tmp_path):
    draw_timeline(tmp_path / "a.png", np.zeros(1), np.ones(1), np.full((1, 9), np.nan), "abcdefghi")
    assert imread(tmp_path / "a.png").shape[1] == 1397


def test_nothing_global_is_touched():
    code = "import sys, finetuning.predict.timeline; sys.exit('matplotlib.pyplot' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
