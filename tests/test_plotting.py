"""The comparison figure: what is drawn, on which scale, and that a file is written whole or not at all."""

import subprocess
import sys
import types

import jax.numpy as jnp
import matplotlib.figure
import matplotlib.patches
import numpy as np
import pytest
import scipy.stats
from matplotlib.colors import to_rgb

from jaxinv import metrics, plotting


def problems(n=2, shape=(8, 10), c=1, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.uniform(size=(n, *shape, c)).astype(np.float32)
    noise = rng.normal(size=truth.shape).astype(np.float32)
    return truth, {"filtered back-projection": truth + 0.3 * noise, "VAE": truth + 0.05 * noise}


def pictures(figure):
    return [axes.images[0] for axes in figure.axes if axes.images]


def test_grid_with_reference():
    truth, images = problems(n=2)
    figure = plotting.compare(images, reference=truth, titles=["first", "second"], heading="Deblurring")
    assert isinstance(figure, matplotlib.figure.Figure)
    assert len(figure.axes) == 2 * (3 + 2) + 2
    titles = [" ".join(axes.get_title().split()) for axes in figure.axes[:3]]
    assert [title.replace("- ", "-") for title in titles] == ["reference", *images]
    assert [figure.axes[0].get_ylabel(), figure.axes[5].get_ylabel()] == ["first", "second"]
    assert figure.texts[0].get_text() == "Deblurring"
    for row in (0, 1):
        for column, (x, axes) in enumerate(zip(images.values(), figure.axes[5 * row + 1 :], strict=False)):
            words = axes.get_xlabel().split()
            assert words[::2] == ["PSNR", "SSIM"]
            values = [metrics.psnr(x[row], truth[row]), metrics.ssim(x[row], truth[row])]
            np.testing.assert_allclose([float(word) for word in words[1::2]], values, rtol=5e-3)  # three digits
            below = figure.axes[5 * row + 3 + column].images[0]
            np.testing.assert_allclose(below.get_array(), (x - truth)[row, ..., 0])
    scales = [picture.get_clim() for picture in pictures(figure)[:10]]
    assert set(scales[:3] + scales[5:8]) == {(truth.min(), truth.max())}
    (low, high), *others = set(scales[3:5] + scales[8:])
    assert not others
    assert low == -high
    assert 0 < high <= max(np.abs(x - truth).max() for x in images.values())


def test_grid_without_reference():
    truth, images = problems(n=3)
    figure = plotting.compare(images)
    assert len(figure.axes) == 3 * 2 + 1
    everything = np.stack(list(images.values()))
    assert {picture.get_clim() for picture in pictures(figure)[:6]} == {(everything.min(), everything.max())}
    assert not any(axes.get_xlabel() for axes in figure.axes)


def test_options():
    truth, images = problems(n=2)
    figure = plotting.compare(
        {"reference": jnp.asarray(images["VAE"])},
        reference=truth[0],
        errors=False,
        limits=(-1, 2),
        metrics={"NRMSE": metrics.nrmse},
    )
    assert len(figure.axes) == 2 * 2 + 1
    assert {picture.get_clim() for picture in pictures(figure)[:4]} == {(-1, 2)}
    assert figure.axes[1].get_xlabel() == f"NRMSE {metrics.nrmse(images['VAE'][0], truth[0]):.3f}"
    np.testing.assert_array_equal(figure.axes[2].images[0].get_array(), truth[0, ..., 0])
    assert plotting.compare(images, reference=truth, metrics={}).axes[1].get_xlabel() == ""
    assert pictures(plotting.compare(images, reference=truth, error_limit=0.5))[3].get_clim() == (-0.5, 0.5)


def test_colour_and_invalid_pixels():
    truth, images = problems(n=1, c=3)
    images["VAE"][0, 2, 3, 1] = np.nan
    figure = plotting.compare(images, reference=truth)
    assert len(figure.axes) == 3 + 2
    drawn = pictures(figure)
    np.testing.assert_array_equal(drawn[2].get_array()[2, 3], (1, 0, 1))
    assert all(0 <= picture.get_array().min() <= picture.get_array().max() <= 1 for picture in drawn)
    assert "nan" in figure.axes[2].get_xlabel()
    # No error is mid-grey, as much above as below.
    perfect = plotting.compare({"perfect": truth}, reference=truth)
    np.testing.assert_allclose(pictures(perfect)[2].get_array(), 0.5)
    assert "inf" in perfect.axes[1].get_xlabel()


def check_texts(figure):
    """All texts are within the figure, and neither on one another nor on the axes."""
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    texts = [t for a in figure.axes for t in (a.title, a.xaxis.label, a.yaxis.label)]
    # Labels beyond the ends of an axis are not drawn.
    for axes in figure.axes:
        low, high = axes.get_ylim()
        texts += [t for t in axes.get_yticklabels() if low <= t.get_position()[1] <= high]
    texts = [t for t in [*texts, *figure.texts] if t.get_text()]
    boxes = [t.get_window_extent(renderer) for t in texts]
    frames = [axes.get_window_extent(renderer) for axes in figure.axes]
    for i, box in enumerate(boxes):
        assert 0 <= box.x0 < box.x1 <= figure.bbox.x1, texts[i]
        assert 0 <= box.y0 < box.y1 <= figure.bbox.y1, texts[i]
        for other, what in [*zip(boxes[:i], texts, strict=False), *zip(frames, figure.axes, strict=True)]:
            shared = box.intersection(box, other)
            assert shared is None or shared.width * shared.height < 1, (texts[i], what)


@pytest.mark.parametrize(
    ("n", "methods", "shape", "unit"),
    [
        (1, 1, (8, 8), 1),
        (6, 5, (8, 8), 1e-2),
        (2, 3, (8, 32), 1e5),
        (2, 3, (40, 10), 1e-7),
        (1, 12, (5, 5), 1),
    ],
)
def test_nothing_overlaps(n, methods, shape, unit):
    truth = unit * problems(n, shape)[0]
    images = {f"method of number {i}": truth - 0.4 * truth[:, ::-1] for i in range(methods)}
    figure = plotting.compare(images, reference=truth, titles=["a rather long title"] * n, heading="A heading " * 3)
    check_texts(figure)


def test_leaves_pyplot_alone():
    program = (
        "import sys, numpy as np\nfrom jaxinv import plotting\nassert 'matplotlib' not in sys.modules\n"
        "plotting.compare({'a': np.ones((8, 8, 1))}).canvas.draw()\nassert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"jaxinv\[demo\]"):
        plotting.compare({"a": np.ones((8, 8, 1))})


def test_save_is_whole_or_not_at_all(tmp_path, monkeypatch):
    figure = plotting.compare({"a": np.ones((8, 8, 1))})
    path = plotting.save(figure, tmp_path / "figure.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert plotting.save(figure, str(tmp_path / "figure.pdf")).read_bytes().startswith(b"%PDF")
    before = path.read_bytes()

    def fails(*args):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", fails)
        with pytest.raises(OSError, match="disk full"):
            plotting.save(figure, path, dpi=50)
    with pytest.raises(ValueError, match="xyz"):
        plotting.save(figure, tmp_path / "figure.xyz")
    with pytest.raises(ValueError, match="'.*missing' of the figure 'figure.png' does not exist"):
        plotting.save(figure, tmp_path / "missing" / "figure.png")
    assert path.read_bytes() == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["figure.pdf", "figure.png"]


GOOD = np.zeros((2, 8, 8, 1), np.float32)


@pytest.mark.parametrize(
    ("images", "options", "words"),
    [
        (GOOD, {}, "dictionary.*got ndarray"),
        ({}, {}, "without entries"),
        ({"a": GOOD, "b": GOOD[0, ..., 0]}, {}, r"`images\['b'\]`.*got \(8, 8\).*channel axis"),
        ({"a": GOOD, "b": GOOD[:, :7]}, {}, r"images\['b'\] has \(2, 7, 8, 1\) and images\['a'\] \(2, 8, 8, 1\)"),
        ({"a": GOOD[..., [0, 0]]}, {}, "channels 1 or 3"),
        ({"a": GOOD.astype(np.uint8)}, {}, r"`images\['a'\]`.*uint8.*8 bits"),
        ({"a": GOOD + 0j}, {}, "complex64.*abs"),
        ({"a": GOOD}, {"reference": GOOD[:, 1:]}, r"`reference`.*\(2, 8, 8, 1\).*got \(2, 7, 8, 1\)"),
        ({"a": GOOD}, {"titles": ["one"]}, r"`titles`.*2 problem\(s\); got \['one'\]"),
        ({"a": GOOD}, {"titles": "ab"}, "`titles`"),
        ({"a": GOOD}, {"limits": (1, 0)}, "`limits`.*smaller first"),
        ({"a": GOOD}, {"reference": GOOD, "error_limit": 0.0}, "`error_limit` must be positive"),
    ],
)
def test_bad_input(images, options, words):
    with pytest.raises(ValueError, match=words):
        plotting.compare(images, **options)


def test_mode_coverage():
    steps, coverage = np.array([20, 40, 60]), np.array([0.1, 0.5, 0.9])
    history = {"monitor": {"coverage": coverage, "entropy": coverage / 2, "other": steps}, "monitor_steps": steps}
    figure = plotting.mode_coverage(history, reference_entropy=jnp.asarray(0.75), heading="A game")
    (axes,) = figure.axes
    lines = {line.get_label(): line for line in axes.lines}
    assert list(lines) == ["coverage", "entropy", "entropy of the data"]
    for name, values in (("coverage", coverage), ("entropy", coverage / 2)):
        np.testing.assert_array_equal(lines[name].get_xydata(), np.stack([steps, values], axis=1))
    assert set(lines["entropy of the data"].get_ydata()) == {0.75}
    assert figure.texts[0].get_text() == "A game"
    check_texts(figure)
    assert len(plotting.mode_coverage(history).axes[0].lines) == 2
    for bad, words in (
        ([], "got list"),
        ({"loss": 1}, "with nothing there"),
        ({"monitor": {"x": 1}}, r"with \['x'\] there"),
    ):
        with pytest.raises(ValueError, match="ModeCoverage.*" + words):
            plotting.mode_coverage(bad)


# Twenty ranks to a bin by default, in bins of one width where a divisor is near; else, as of 97 ranks, of nearly one.
@pytest.mark.parametrize(
    ("n", "num_samples", "bins", "expected"), [(400, 99, None, 20), (300, 96, None, 15), (9, 3, 3, 3)]
)
def test_calibration(n, num_samples, bins, expected):
    ranks = np.random.default_rng(0).integers(0, num_samples + 1, size=(n, 2))
    ranks[:, 1] //= 2  # no truth is in the upper half of the samples
    figure = plotting.calibration(ranks, num_samples, bins=bins, titles=["one", "other"])
    check_texts(figure)
    for axes, column, title in zip(figure.axes, ranks.T, ["one", "other"], strict=True):
        assert axes.get_title() == title
        bars = [p for p in axes.patches if isinstance(p, matplotlib.patches.Rectangle)]
        band, middle = (p.get_data() for p in axes.patches if isinstance(p, matplotlib.patches.StepPatch))
        assert len(bars) == expected
        widths = [round(bar.get_width()) for bar in bars]
        assert sum(widths) == num_samples + 1
        assert max(widths) - min(widths) <= (num_samples == 96 or bins is not None)
        for bar, width, low, high, mean in zip(bars, widths, band.baseline, band.values, middle.values, strict=True):
            first = round(bar.get_x() + 0.5)
            assert bar.get_height() == np.sum((column >= first) & (column < first + width))
            assert (low, high) == scipy.stats.binom(n, width / (num_samples + 1)).interval(0.99)
            assert mean == pytest.approx(n * width / (num_samples + 1))
    assert len(plotting.calibration(ranks[:, 0], num_samples).axes) == 1


def test_calibration_marks_what_is_not_uniform():
    ranks = np.arange(400) % 100
    red = lambda figure: [p.get_facecolor()[:3] == to_rgb("C3") for p in figure.axes[0].patches if hasattr(p, "get_x")]
    assert not any(red(plotting.calibration(ranks, 99)))
    # Half as wide and twice as high: all bins are outside.
    assert all(red(plotting.calibration(ranks // 2, 99)))
    # What failed is counted apart, and is in no bin.
    figure = plotting.calibration(np.concatenate([ranks, [-1, -1]]), 99)
    assert not any(red(figure))
    assert figure.axes[0].get_xlabel() == "rank; 2 of 402 failed"


RANKS = np.arange(10)


@pytest.mark.parametrize(
    ("ranks", "num_samples", "options", "words"),
    [
        (RANKS / 10, 9, {}, "`ranks` must be integers.*float64"),
        (RANKS[:0], 9, {}, r"`ranks`.*\(0,\)"),
        (RANKS, 8, {}, "from 0 to 8.*these lie from 0 to 9"),
        (RANKS - 2, 9, {}, "these lie from -2 to 7"),
        (0 * RANKS - 1, 9, {}, "All `ranks` of a quantity are -1"),
        (RANKS, 0, {}, "`num_samples`.*got 0"),
        (RANKS, 9, {"bins": 11}, "`bins` must be an integer from 2 to `num_samples [+] 1 = 10`; got 11"),
        (RANKS, 9, {"level": 1.0}, "`level`"),
        (RANKS, 9, {"titles": ["a", "b"]}, "`titles`.*1 quantities"),
    ],
)
def test_bad_ranks(ranks, num_samples, options, words):
    with pytest.raises(ValueError, match=words):
        plotting.calibration(ranks, num_samples, **options)


def test_show(tmp_path, monkeypatch):
    figure = plotting.compare({"a": np.ones((8, 8, 1))})
    shell, seen = types.SimpleNamespace(), []
    display = types.SimpleNamespace(Image=lambda png, width: (png, width), display=seen.append)
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell, display=display))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    # IPython in a terminal is no notebook.
    plotting.show(figure, tmp_path / "figure.png")
    with pytest.raises(ValueError, match="no notebook.*`path`"):
        plotting.show(figure)
    shell.kernel = object()
    plotting.show(figure, tmp_path / "other.png")
    assert [entry.name for entry in tmp_path.iterdir()] == ["figure.png"]
    ((png, width),) = seen
    assert png.startswith(b"\x89PNG")
    assert width == round(110 * figure.get_figwidth())
