"""Figures of samples and of paths: every image in its place, every path with its times."""

import jax.numpy as jnp
import matplotlib.figure
import numpy as np
import pytest

from jaxinv import diffusion, metrics, plotting


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(("n", "columns", "rows"), [(7, 3, 3), (5, None, 2), (2, 9, 1)])
def test_sample_grid(n, columns, rows):
    images = normal(n, 4, 6, 1)
    figure = plotting.sample_grid(images, columns=columns, heading="Samples", limits=(-9, 9))
    assert isinstance(figure, matplotlib.figure.Figure)
    assert figure.texts[0].get_text() == "Samples"
    (axes,) = figure.axes
    (picture,) = axes.images
    assert picture.get_clim() == (-9, 9)
    page = np.asarray(picture.get_array())
    wide = min(columns or 3, n)
    assert page.shape == (rows * 5 - 1, wide * 7 - 1)
    for i, image in enumerate(images):
        top, left = 5 * (i // wide), 7 * (i % wide)
        np.testing.assert_array_equal(page[top : top + 4, left : left + 6], image[..., 0])
    # White wherever there is none.
    assert np.sum(page == 9) == page.size - images.size
    height, width = figure.get_figheight(), figure.get_figwidth()
    # Pixels are square: the axes have the shape of the page.
    box = axes.get_position()
    assert box.height * height / (box.width * width) == pytest.approx(page.shape[0] / page.shape[1])


def test_colour_grid():
    picture = plotting.sample_grid(np.stack([np.zeros((3, 3, 3)), np.ones((3, 3, 3))]), columns=2).axes[0].images[0]
    assert picture.get_array().shape == (3, 7, 3)
    assert picture.get_array()[0, 0].sum() == 0
    assert picture.get_array()[0, 6].sum() == 3


def test_curves():
    times, states = np.linspace(0, 1, 5), normal(3, 5, 1)
    each = np.linspace(1, 0, 5) * np.array([1.0, 0.9, 0.8])[:, None]
    seen = []

    def density(t, x):
        seen.append((t, x))
        return np.exp(-(x**2)) + 0 * t

    figure = plotting.trajectories({"forward": (times, states), "reverse": (each, states)}, density=density)
    forward, reverse = figure.axes
    assert [panel.get_title() for panel in figure.axes] == ["forward", "reverse"]
    for panel, expected in ((forward, np.broadcast_to(times, (3, 5))), (reverse, each)):
        for line, t, path in zip(panel.lines, expected, states, strict=True):
            np.testing.assert_allclose(line.get_xdata(), t)
            np.testing.assert_allclose(line.get_ydata(), path[:, 0], rtol=1e-6)
    # Each from left to right as it runs, over the whole of its times.
    assert forward.get_xlim() == (0, 1)
    assert reverse.get_xlim() == (1, 0)
    for panel, (t, x) in zip((forward, reverse), seen, strict=True):
        (background,) = panel.images
        assert (t.min(), t.max()) == (0, 1)
        assert x.min() < states.min() < states.max() < x.max()
        column = np.asarray(background.get_array())[:, 0]
        # The lowest position is the first row, and the picture is drawn from below.
        assert background.origin == "lower"
        assert abs(x.reshape(200, 200)[np.argmax(column), 0]) < 0.05


def test_points():
    states = normal(4, 6, 2)
    figure = plotting.trajectories({"flow": (np.linspace(1, 0, 6), states)}, limits=(-5, 5))
    lines = figure.axes[0].lines
    assert len(lines) == 8
    for i, path in enumerate(states):
        np.testing.assert_allclose(np.stack(lines[2 * i].get_data(), 1), path, rtol=1e-6)
        np.testing.assert_allclose(np.ravel(lines[2 * i + 1].get_data()), path[-1], rtol=1e-6)


def test_images():
    forward, reverse = normal(2, 3, 4, 5, 1), normal(1, 3, 4, 5, 1)
    times = np.array([0.25, 0.5, 1.0])
    figure = plotting.trajectories({"forward": (times, forward), "reverse": (times[::-1], reverse)})
    assert len(figure.axes) == 9
    for axes, image in zip(figure.axes, np.concatenate([forward, reverse]).reshape(9, 4, 5), strict=True):
        np.testing.assert_allclose(axes.images[0].get_array(), image)
    assert [figure.axes[i].get_ylabel() for i in (0, 3, 6)] == ["forward", "", "reverse"]
    captions = [axes.get_xlabel() for axes in figure.axes]
    assert captions == [f"t {t}" for t in 2 * ["0.250", "0.500", "1.00"] + ["1.00", "0.500", "0.250"]]
    together = plotting.trajectories({"forward": (times, forward)})
    assert [axes.get_title() for axes in together.axes[:3]] == ["t = 0.250", "t = 0.500", "t = 1.00"]


PAIR = (np.linspace(0, 1, 5), normal(3, 5, 1))


def test_ranks_by_name_and_a_check():
    ranks = np.random.default_rng(0).integers(0, 20, size=(100, 2))
    figure = plotting.calibration({"mean": ranks[:, 0], "energy": ranks[:, 1]}, 19)
    assert [axes.get_title() for axes in figure.axes] == ["mean", "energy"]
    draws = normal(50, 9)
    stein = metrics.SteinTest(*map(jnp.asarray, (0.5, 0.5, 1.0)))
    numbers = map(jnp.asarray, (0.6, 0.1, 1e-4, draws[:, 0], draws[:, 1:], 0.9, 50.0))
    check = diffusion.PosteriorCheck(stein, *numbers, 50)
    figure = plotting.posterior_check(check)
    assert "spread too little" in figure.texts[0].get_text()
    (line, *_), (point, *_) = figure.axes[2].lines, figure.axes[1].lines
    assert line.get_xdata()[0] == 1
    assert point.get_xdata() == [0.5]
    assert point.get_color() == "C0"
    assert figure.axes[2].containers[0].lines[0].get_color() == "C3"
    with pytest.raises(ValueError, match="for one problem; got ndarray"):
        plotting.posterior_check(draws)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: plotting.sample_grid(normal(3, 4, 4)[None, None]), "samples.*channels"),
        (lambda: plotting.sample_grid(normal(3, 4, 4, 1), columns=0), "`columns` must be an integer of at least 1"),
        (lambda: plotting.sample_grid(normal(3, 4, 4, 1), size=-1), "`size` must be positive"),
        (lambda: plotting.trajectories(PAIR), "dictionary"),
        (lambda: plotting.trajectories({"a": PAIR[1]}), "must be a pair"),
        (lambda: plotting.trajectories({"a": (PAIR[0], PAIR[1][0])}), r"states\[None\]"),
        (lambda: plotting.trajectories({"a": (PAIR[0][:4], PAIR[1])}), r"\(5,\) or \(3, 5\)"),
        (lambda: plotting.trajectories({"a": PAIR, "b": (PAIR[0], normal(3, 5, 2))}), "of one kind"),
        (lambda: plotting.trajectories({"a": (PAIR[0], normal(3, 5, 2))}, density=max), "numbers only"),
        (
            lambda: plotting.trajectories(
                {"a": (PAIR[0], normal(1, 5, 2, 2, 1)), "b": (PAIR[0][:4], normal(1, 4, 2, 2, 1))}
            ),
            r"as many states in all `paths`; got \[4, 5\]",
        ),
    ],
)
def test_bad_input(call, match):
    with pytest.raises(ValueError, match=match):
        call()
