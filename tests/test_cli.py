"""The command line, as a user types it."""

import functools
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from programs import equations

import jaxinv
from jaxinv import cli, data, io, models, operators
from jaxinv._commands import _cache, _many, _score, _tasks
from jaxinv._commands._images import load
from jaxinv._commands._many import solve_all
from jaxinv._commands._progress import Bar, in_pieces
from jaxinv._commands._tasks import TASKS, measured_by

HEAVY = """
import contextlib, sys
from jaxinv import cli
for arguments in (["--help"], ["--version"], ["demo", "--help"], ["demo", "--quik"], ["sample"],
                  ["evaluate", "x", "--noise", "0"], ["reconstruct", "x", "--noise", "0"], ["sample", "none"], []):
    with contextlib.suppress(SystemExit):
        cli.main(arguments)
found = {"jax", "numpy", "flax", "diffrax", "equinox", "jaxtyping"} & sys.modules.keys()
sys.exit(f"imported: {found}" if found else 0)
"""


def python(*arguments):
    return subprocess.run([sys.executable, "-W", "error", *arguments], capture_output=True, text=True)


def test_nothing_heavy_is_imported_before_the_arguments_are_read():
    finished = python("-c", HEAVY)
    assert finished.returncode == 0, finished.stderr


def test_runs_as_a_module():
    assert python("-m", "jaxinv.cli", "--version").stdout == f"jaxinv {jaxinv.__version__}\n"
    finished = python("-m", "jaxinv.cli", "sample")
    assert finished.returncode == 2
    assert "required: FILE" in finished.stderr


def test_every_name_of_the_package_is_found_when_it_is_used():
    assert set(jaxinv.__all__) <= set(dir(jaxinv))
    for name in jaxinv.__all__:
        assert getattr(jaxinv, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        jaxinv.nothing


def test_help_is_complete(capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(["demo", "--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    for option in ("--data", "--quick", "--full", "--images", "--output", "--no-cache", "JAXINV_CACHE", "mnist"):
        assert option in text


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["demo", "--data", "cifar"], "'digits', 'mnist'"),
        (["demo", "--images", "0"], "not a positive integer"),
        (["demo", "--images", "many"], "not a positive integer"),
        (["demo", "--quik"], "unrecognized arguments: --quik"),
        (["train", "score", "--process", "ddpm"], "'vp', 'subvp', 've', 'flow'"),
        (["demo", "--quick", "--full"], "not allowed with"),
        (["evaluate", "any.safetensors", "--noise", "0"], "must be positive"),
        (["dip", "any.png", "--noise", "-1"], "must be positive"),
        (["dip", "any.png", "--tv", "-1"], "must not be negative"),
        (["dip", "any.png", "--rate", "nan"], "not a finite number"),
        (["dip", "any.npy", "--angles", "half"], "START:STOP"),
        (["dip", "any.npy", "--angles", "0:180", "--fan", "40"], "SOURCE:DETECTOR"),
        (["dmeo"], "demo"),
        ([], "COMMAND"),
    ],
)
def test_wrong_option_says_what_is_allowed(arguments, fragment, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(arguments)
    assert exit_.value.code == 2
    assert fragment in capsys.readouterr().err


def test_unwritable_output_is_said_before_the_work(tmp_path, capsys):
    blocker = tmp_path / "file"
    blocker.write_text("")
    assert cli.main(["demo", "--quick", "--output", str(blocker / "folder")]) == 1
    printed = capsys.readouterr()
    assert "cannot be made" in printed.err
    assert printed.out == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "vae", "--data", "FILE", "--output", "FILE"],
        ["train", "score", "--data", "FILE", "--output", "FILE"],
        ["sample", "FILE", "--output", "FILE"],
    ],
    ids=lambda arguments: arguments[0] + arguments[1],
)
def test_no_output_overwrites_what_is_read(arguments, tmp_path, capsys):
    file = tmp_path / ("mine.png" if arguments[0] == "sample" else "mine.npy")
    with file.open("wb") as stream:
        np.save(stream, np.zeros((320, 8, 8, 1)))
    before = file.read_bytes()
    assert cli.main([str(file) if argument == "FILE" else argument for argument in arguments]) == 1
    assert "would overwrite" in capsys.readouterr().err
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def test_compiled_programs_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXINV_CACHE", str(tmp_path / "compiled"))
    monkeypatch.setattr(_cache, "_LEAST_SECONDS", 0.0)
    # The tests keep their programs too; a user's choice of a folder would be left as it is.
    before, events, values = jax.config.jax_compilation_cache_dir, [], []
    _cache._configure({"jax_compilation_cache_dir": None})
    listen = lambda event, **_: events.append(event)
    jax.monitoring.register_event_listener(listen)
    try:
        for _ in range(2):
            jax.clear_caches()
            with _cache.kept_programs():
                values.append(jax.jit(lambda x: jnp.linalg.eigh(x @ x.T)[1])(jnp.arange(12.0).reshape(3, 4)))
        assert jax.config.jax_compilation_cache_dir is None
        assert any((tmp_path / "compiled").iterdir())
    finally:
        jax.monitoring.unregister_event_listener(listen)
        _cache._configure({"jax_compilation_cache_dir": before})
    assert "/jax/compilation_cache/cache_hits" in events
    np.testing.assert_array_equal(*values)


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    before = jax.config.jax_compilation_cache_dir
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JAXINV_CACHE", str(tmp_path / "file" / "compiled"))
    with _cache.kept_programs():
        assert jax.config.jax_compilation_cache_dir == before


def test_work_in_pieces():
    sizes = []

    def double(batch):
        sizes.append(len(batch))
        return 2 * batch

    told = []
    np.testing.assert_array_equal(in_pieces(double, jnp.arange(5.0), 2, told.append), 2 * jnp.arange(5.0))
    assert sizes == [2, 2, 2]
    assert told == [0.4, 0.8, 1.0]


def test_many_problems_begin_with_a_plan(monkeypatch, capsys):
    monkeypatch.setattr(_many, "_MANY", 5)
    monkeypatch.setattr(_many, "_CHUNK", 2)
    for count, planned in [(4, False), (5, True)]:
        np.testing.assert_array_equal(solve_all(jnp.square, jnp.arange(float(count)), "Squares"), np.arange(count) ** 2)
        said = capsys.readouterr().out
        assert ("memory of two chunks" in said and "all, on 1 device(s)" in said) is planned


@pytest.mark.slow
def test_train_and_reconstruct(tmp_path, capsys):
    images, network, output = tmp_path / "images.npy", tmp_path / "prior.safetensors", tmp_path / "out"
    np.save(images, np.asarray(data.digits(size=8)[0]))
    train = ["train", "autoencoder", "--data", str(images), "--latents", "6", "--steps", "300"]
    assert cli.main([*train, "--output", str(network)]) == 0
    assert "encode and decode" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"images.npy", "prior.safetensors"}
    # The quick demo has the other tasks.
    for task in ("tomography", "compressed-sensing"):
        again = [
            "evaluate",
            str(network),
            "--data",
            str(images),
            "--task",
            task,
            "--images",
            "3",
            "--restarts",
            "2",
            "--output",
            str(output),
        ]
        assert cli.main(again) == 0
        row = json.loads((output / "results.json").read_text())
        # The mean of the digits has about 11 dB.
        assert row["failed"] == 0
        assert row["rows"]["autoencoder"]["psnr_clipped"] > 13
        assert np.load(output / f"{task}.npy").shape == (3, 8, 8, 1)
        assert (output / f"{task}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "said"), [("gan", "nearest images of its range"), ("flow", "bits per dimension")])
def test_train_the_others(kind, said, tmp_path, capsys):
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 256, (320, 8, 8, 1), np.uint8))
    chosen = ["--data", str(tmp_path / "images.npy")]
    # A name that scratch files of the run could have had.
    network = tmp_path / "prior.checkpoint"
    train = ["train", kind, *chosen, "--latents", "3", "--steps", "20", "--batch", "16", "--output", str(network)]
    assert cli.main(train) == 0
    assert said in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"images.npy", "prior.checkpoint"}
    output = tmp_path / "out"
    again = ["evaluate", str(network), *chosen, "--images", "2", "--restarts", "1", "--output", str(output)]
    assert cli.main(again) == 0
    assert kind in json.loads((output / "results.json").read_text())["rows"]


@pytest.fixture
def small_networks(monkeypatch):
    """Networks of a score that compile, and are trained, in seconds."""
    sizes = {"width": 32, "num_blocks": 2, "token_width": 16, "channel_width": 32, "embedding_size": 16}
    small = {"mixer": functools.partial(models.Mixer, **sizes), "unet": functools.partial(models.UNet, widths=(8,))}
    assert small.keys() == _score.NETWORKS.keys()
    monkeypatch.setattr(_score, "NETWORKS", small)


@pytest.fixture
def halves(tmp_path):
    """A folder of pictures of two grey levels, one half white, and the two images."""
    images = np.zeros((320, 8, 8, 1), np.uint8)
    images[::2, :4] = images[1::2, :, 4:] = 255
    (tmp_path / "images").mkdir()
    for i, image in enumerate(images):
        io.write(tmp_path / "images" / f"{i}.png", image)
    return tmp_path / "images", images[:2] / 255


@pytest.mark.slow
def test_train_a_score_and_use_it(halves, small_networks, tmp_path, capsys):
    # What four hundred steps of a small network must find.
    file, picture = tmp_path / "score.safetensors", tmp_path / "samples.png"
    images, kinds = halves
    train = ["train", "score", str(images), "--network", "mixer", "--steps", "400", "--batch", "16"]
    assert cli.main([*train, "--output", str(file)]) == 0
    assert f"jaxinv sample {file}" in capsys.readouterr().out
    assert cli.main(["sample", str(file), "--images", "12", "--steps", "20", "--output", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    samples = np.load(tmp_path / "samples.npy")
    assert samples.shape == (12, 8, 8, 1)
    errors = np.abs(samples[:, None] - kinds[None]).mean((2, 3, 4))
    # Grey and noise are at .5 from either, or further; these are within .18, and .31 after two hundred steps.
    assert np.median(errors.min(1)) < 0.3
    assert set(errors.argmin(1)) == {0, 1}
    output = tmp_path / "out"
    again = ["evaluate", str(file), "--data", str(images), "--task", "inpainting"]
    again += ["--images", "2", "--samples", "3", "--output", str(output)]
    assert cli.main([*again, "--prior", "vae"]) == 1
    assert "kind score" in capsys.readouterr().err
    assert cli.main([*again, "--prior", "score"]) == 0
    result = json.loads((output / "results.json").read_text())
    assert result["failed"] == 0
    assert 0 <= result["coverage"] <= 1
    assert np.load(output / "inpainting.npy").shape == (2, 3, 8, 8, 1)
    assert (output / "inpainting_samples.png").read_bytes().startswith(b"\x89PNG")
    # A quarter of the pixels tells which half is white.
    assert result["rows"]["score, mean"]["psnr_clipped"] > 10
    # A blurred picture of one's own has a posterior.
    own = ["reconstruct", str(images / "0.png"), "--operator", "blur:1", "--noise", "0.1", "--samples", "3"]
    assert cli.main([*own, "--prior", str(file), "--output", str(tmp_path / "x.npy")]) == 0
    samples = np.load(tmp_path / "x_samples.npy")
    assert samples.shape == (3, 8, 8, 1)
    np.testing.assert_allclose(np.load(tmp_path / "x.npy"), samples.mean(0), atol=1e-5)
    np.testing.assert_allclose(np.load(tmp_path / "x_std.npy"), samples.std(0), atol=1e-5)
    assert np.abs(samples.mean(0) - kinds[0]).mean() < 0.3


@pytest.mark.slow
@pytest.mark.parametrize(("process", "network"), [("ve", "mixer"), ("flow", "mixer"), ("subvp", "unet")])
def test_every_process_is_trained_and_drawn_from(process, network, halves, small_networks, tmp_path):
    file = tmp_path / "score.safetensors"
    train = ["train", "score", "--data", str(halves[0]), "--process", process, "--network", network]
    assert cli.main([*train, "--steps", "3", "--batch", "16", "--output", str(file)]) == 0
    assert cli.main(["sample", str(file), "--images", "3", "--steps", "5", "--output", str(tmp_path / "s.png")]) == 0
    samples = np.load(tmp_path / "s.npy")
    assert samples.shape == (3, 8, 8, 1)
    assert np.isfinite(samples).all()


@pytest.mark.slow
def test_interrupted_training_goes_on(tmp_path, capsys, monkeypatch):
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 256, (320, 8, 8, 1), np.uint8))
    train = ["train", "vae", "--data", str(tmp_path / "images.npy"), "--latents", "2", "--steps", "60", "--batch", "16"]
    train += ["--output", str(tmp_path / "a.safetensors")]
    assert cli.main(train) == 0
    ticks = []

    def interrupt(meter, state, progress):
        ticks.append(float(progress))
        if float(progress) > 0.5:
            raise KeyboardInterrupt
        return state

    other = [*train[:-1], str(tmp_path / "b.safetensors")]
    with monkeypatch.context() as patched:
        patched.setattr(Bar, "step", interrupt)
        assert cli.main(other) == 130
    assert cli.main(other) == 0
    assert "Went on from step" in capsys.readouterr().out
    read = lambda name: safetensors.numpy.load_file(tmp_path / f"{name}.safetensors")
    for name, value in read("a").items():
        np.testing.assert_array_equal(read("b")[name], value)


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["train", "vae", "--data", "cifar"], "give `digits`, `mnist`, `ellipses`, or a file"),
        (["train", "vae", "--output", "missing/prior.safetensors"], "Cannot write"),
        (["evaluate", "missing.safetensors"], "There is no file"),
        (["train", "vae", "missing"], "There is no folder missing"),
        (["train", "score", "--data", "cifar"], "give `digits`, `mnist`, `ellipses`, or a file"),
        (["train", "score", "--output", "missing/score.safetensors"], "Cannot write"),
        (["sample", "missing.safetensors"], "There is no file"),
        (["sample", "missing.safetensors", "--output", "samples.npy"], "name a picture"),
    ],
)
def test_what_cannot_be_read_or_written_is_said(arguments, fragment, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 1
    assert fragment in capsys.readouterr().err


def test_images_of_a_file(tmp_path):
    good = np.random.default_rng(0).integers(0, 256, (400, 8, 9), np.uint8)
    np.save(tmp_path / "good.npy", good)
    train, tuning, test = load(str(tmp_path / "good.npy"), 5, quick=False)
    assert (train.shape, tuning.shape, test.shape) == ((103, 8, 9, 1), (97, 8, 9, 1), (5, 8, 9, 1))
    assert float(train.max()) == 1
    # Nothing is both trained on and held out, however many are asked for: a network meets images it has not seen.
    seen = {bytes(np.asarray(x)) for x in train}
    _, _, more = load(str(tmp_path / "good.npy"), 200, quick=False)
    assert not seen & {bytes(np.asarray(x)) for x in more}
    np.testing.assert_array_equal(more[:5], test)
    bad = {"few": good[:100], "range": good * 2.0, "nan": np.full((400, 8, 9, 1), np.nan), "shape": good[0]}
    for name, message in {"few": "at least 298", "range": "in \\[0, 1\\]", "nan": "finite", "shape": "shape"}.items():
        np.save(tmp_path / f"{name}.npy", bad[name])
        with pytest.raises(ValueError, match=message):
            load(str(tmp_path / f"{name}.npy"), 5, quick=False)


@pytest.mark.parametrize("task", TASKS)
def test_no_task_of_a_large_picture_has_the_size_of_its_pixels_squared(task):
    shape = (256, 256, 1)

    def use(key, x):
        likelihood = measured_by(TASKS[task][1](shape, key), 0.1, key)
        return likelihood.operator(x), likelihood.operator.adjoint(likelihood.operator(x))

    program = jax.make_jaxpr(use)(jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))
    sizes = [np.prod(v.aval.shape) for e in equations(program.jaxpr) for v in e.outvars if hasattr(v.aval, "shape")]
    assert max(sizes) <= 64 * np.prod(shape)


@pytest.mark.slow
def test_large_compressed_sensing_is_of_rows_with_the_power_of_noise(monkeypatch):
    monkeypatch.setattr(_tasks, "_LARGEST_MATRIX", 0)
    matrix = operators.materialise(_tasks.compressed((8, 6, 1), jax.random.key(0))).matrix
    assert matrix.shape == (9, 48)
    np.testing.assert_allclose(matrix @ matrix.T, 48 * np.eye(9), atol=1e-4)


def test_info_says_what_a_report_needs(capsys):
    assert cli.main(["info", "--no-cache"]) == 0
    text = capsys.readouterr().out
    for word in (f"jaxinv:      {jaxinv.__version__}", f"jax {jax.__version__}", "cpu", "float32", "equinox", "cores"):
        assert word in text
