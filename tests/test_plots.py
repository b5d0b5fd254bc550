"""Pictures are in true size and show what is in the numbers."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from finetuning.predict import Answer, Prediction, plots
from finetuning.predict.plots import COLOURS, draw_recording, draw_timeline

MM = 5  # pixels
NAMES = {"A": "atrial fibrillation", "N": "normal rhythm"}


@pytest.fixture
def figure(monkeypatch, tmp_path):
    """Draw, and return the figure instead of writing the file."""
    drawn = []

    def savefig(figure, path, **_):
        path.touch()
        drawn.append(figure)

    def draw(function, *args, **kwargs):
        function(tmp_path / "picture.png", *args, **kwargs)
        drawn[-1].canvas.draw()
        return drawn.pop()

    monkeypatch.setattr(plots.Figure, "savefig", savefig)
    return draw


def wave(seconds, fs=250, height=1.0):
    return height * np.sin(2 * np.pi * np.arange(round(seconds * fs)) / fs)


def papers(figure):  # those axes whose unit is mV
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


def test_evidence_is_drawn_in_its_place_and_size(tmp_path):
    draw_recording(tmp_path / "a.png", wave(20), 250, np.array([-1, 0, 1, 0.5]), title="a")
    header = (tmp_path / "a.png").read_bytes()
    at = header.index(b"pHYs") + 4
    assert int.from_bytes(header[at : at + 4]) == 1000 * MM  # pixels per metre
    image = imread(tmp_path / "a.png")[..., :3]
    assert image.shape[:2] == (MM * (17 + 2 * 44 + 8 + 18), MM * (8 + 265 + 8))
    for seconds, colour in ((1, COLOURS[1]), (4.9, COLOURS[1]), (5.1, "white"), (11, COLOURS[0])):
        row = int(seconds // 10)
        y = 17 + 40 + 2 + row * (40 + 4 + 8)
        x = 8 + 10 + 25 * (seconds - 10 * row)
        np.testing.assert_allclose(image[y * MM, int(x * MM)], to_rgb(colour), atol=0.02)


@pytest.mark.parametrize(("height", "reach", "cut"), [(0.1, 2, 0), (2.2, 2.5, 0), (9, 4, 1)])
def test_rows_grow_with_the_signal(figure, height, reach, cut):
    signal = wave(30, height=height) + 70
    signal[:2500] = np.nan  # missing samples are left out
    drawn = figure(draw_recording, signal, 250)
    assert [axes.get_ylim() for axes in papers(drawn)] == [(-reach, reach)] * 3
    assert [len(axes.texts) for axes in papers(drawn)] == [0, cut, cut]  # cut at ±4 mV
    shown = np.concatenate([axes.lines[1].get_xdata() for axes in papers(drawn)])
    np.testing.assert_allclose(shown, np.arange(7500) / 250)


def test_words_on_the_paper(figure):
    drawn = figure(draw_recording, wave(12), 200, np.zeros(3), "n" * 999, "$V_", "fibrillation")
    texts = [text.get_text() for text in drawn.texts]
    assert texts[1:3] == ["lead $V_, 200 Hz, 25 mm/s, 10 mm/mV", plots.NOTICE]
    assert texts[0].startswith("nnn") and texts[-1] == "for fibrillation"
    assert all(text.get_window_extent().x1 <= drawn.bbox.width for text in drawn.texts)
    for title, *answer in (
        ("atrial fibrillation (A 0.93, N 0.07)", [0.93, 0.07], ("A",)),
        ("cannot tell: why (A 0.40, N 0.30)", [0.4, 0.3], (), "why"),
        ("none of these (A 0.40, N 0.30)", [0.4, 0.3], ()),
        ("cannot tell: why", [np.nan, np.nan], (), "why"),
    ):
        assert plots.headline("r", Answer(30, 60, *answer), NAMES) == f"r  {title}, from 30 s"


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_timeline_shows_answers_and_their_shares(figure, multi_label):
    both = ("A", "N") if multi_label else ("A",)
    windows = [
        Answer(0, 30, np.array([0.9, 0.1]), both),
        Answer(30, 60, np.full(2, np.nan), (), "flat"),
        Answer(60, 90, np.array([0.2, 0.8]), ("N",)),
        Answer(75, 105, np.array([0.3, 0.7]), ("N",)),  # overlaps the one before
    ]
    prediction = Prediction(list("AN"), windows[0], windows)
    drawn = figure(draw_timeline, prediction, NAMES, multi_label, "$t")
    assert [text.get_text() for text in drawn.legends[0].get_texts()] == [
        "atrial fibrillation (A): 25.0%",
        f"normal rhythm (N): {'75.0%' if multi_label else '50.0%'}", "cannot tell: 25.0%",
    ]  # fmt: skip
    boxes = [[p.get_extents() for p in lane.get_paths()] for lane in drawn.axes[1].collections]
    lanes = [[(box.x0, box.x1) for box in lane] for lane in boxes[:-1]]  # the last are lines
    normal = [(0, 30)] * multi_label + [(60, 90), (90, 105)]
    assert lanes == [[(0, 30)], normal, [(30, 60)]] and drawn.get_suptitle() == "$t"
    tops = [np.nanmax(patch.get_data().values) for patch in drawn.axes[0].patches]
    assert tops == pytest.approx([0.9, 0.8 if multi_label else 1.0])
    assert all(patch.get_fill() != multi_label for patch in drawn.axes[0].patches)
