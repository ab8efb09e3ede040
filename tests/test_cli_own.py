"""`jaxinv reconstruct` and `jaxinv simulate`, with files of one's own, as a user types them."""

import json
import time

import numpy as np
import pytest
from PIL import Image

from jaxinv import cli, data, io, operators
from jaxinv._commands import _chosen_prior, _operator, _spec
from jaxinv._commands._solvers import SOLVERS

tifffile = pytest.importorskip("tifffile")
TRUE = np.asarray(data.shepp_logan(16))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    Image.fromarray(np.uint8(255 * TRUE[..., 0])).save("picture.png")
    Image.fromarray(np.where(np.arange(256).reshape(16, 16) % 3, 255, 0).astype(np.uint8)).save("mask.png")
    Image.fromarray(np.zeros((16, 16), np.uint8)).save("black.png")
    angles = np.linspace(0, np.pi, 24, endpoint=False)
    sinogram = np.asarray(operators.ParallelBeam((16, 16, 1), angles, 24, centre_offset=0.5)(TRUE))[..., 0] / 10
    # Another slice has twice as much of everything.
    counts = 90 + rng.poisson(2e4 * np.exp(-np.stack([sinogram, 2 * sinogram], 1)))
    tifffile.imwrite("scan.tif", counts.astype(np.uint16), photometric="minisblack")
    tifffile.imwrite("flat.tif", np.full((3, 2, 24), 20090, np.uint16), photometric="minisblack")
    tifffile.imwrite("dark.tif", np.full((2, 24), 90, np.uint16))
    np.save(
        "kspace.npy", np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(TRUE[..., 0]), norm="ortho")).astype(np.complex64)
    )
    np.save("matrix.npy", rng.normal(size=(100, 256)).astype(np.float32))
    (tmp_path / "blur.toml").write_text('kind = "blur"\nwidth = 1.0\nboundary = "zero"\n')
    (tmp_path / "own.toml").write_text('kind = "blur"\nfile = "kernel.npy"\n')
    (tmp_path / "endless.toml").write_text(f'kind = "downsample"\nfactor = 1{"0" * 400}\n')
    np.save("kernel.npy", np.ones((3, 3), np.float32))
    np.save("angles.npy", np.arange(24) * 7.5)
    np.save("complex.npy", np.arange(24) * 7.5 + 1j)
    np.savez("complex.npz", sinogram=np.ones((24, 8)) + 1j, angles=np.arange(24) * 0.1)
    np.save("row.npy", np.ones((4, 4), np.float32))
    (tmp_path / "wrong.toml").write_text('kind = "blur"\nsigma = 1.0\n')
    (tmp_path / "pictures").mkdir()
    for i in range(30):
        shade = np.full((16, 16), 40 + 5 * i) + np.arange(16)[:, None] * (i % 7) + rng.integers(0, 30, (16, 16))
        Image.fromarray(shade.astype(np.uint8)).save(f"pictures/{i}.png")
    (tmp_path / "small").mkdir()
    for i in range(3):
        Image.fromarray(np.full((8, 8), i, np.uint8)).save(f"small/{i}.png")
    return tmp_path


def psnr(image, truth):
    return -10 * np.log10(np.mean((image - truth) ** 2))


@pytest.mark.slow
def test_a_stack_with_flat_and_dark_fields_is_a_picture(folder, capsys):
    scan = ["scan.tif", "--flat", "flat.tif", "--dark", "dark.tif", "--operator", "parallel:0:180", "--offset", "0.5"]
    assert cli.main(["reconstruct", *scan, "--output", "slice.tif", "--slice", "1", "--size", "16"]) == 0
    printed = capsys.readouterr().out
    assert "24 angles and 24 detectors, 16 x 16 pixels" in printed
    image = io.read_image("slice.tif")
    # The image is as wide as the detector, 24 bins, and in the unit 1/bin.
    width = np.asarray(operators.ParallelBeam((16, 16, 1), np.zeros(1), 24, pixel_size=1.5)(image)).sum() * 1.0
    np.testing.assert_allclose(
        width, np.asarray(operators.ParallelBeam((16, 16, 1), np.zeros(1), 24)(TRUE)).sum() / 5, rtol=0.05
    )
    assert (folder / "slice_figure.png").read_bytes().startswith(b"\x89PNG")


SIMULATED = {
    "mask:mask.png": ([], 14),
    "blur.toml": (["--weight", "5"], 14),
    "fan:60:30:0:360:30": (["--prior", "fbp"], 12),
    "fourier:mask.png": (["--prior", "tikhonov"], 10),
    "matrix:matrix.npy": (["--prior", "tikhonov", "--weight", "10"], 10),
}


@pytest.mark.slow
@pytest.mark.parametrize("operator", SIMULATED)
def test_what_is_simulated_is_reconstructed(operator, folder, capsys):
    options, least = SIMULATED[operator]
    assert cli.main(["simulate", "picture.png", "--operator", operator, "--noise", "0.02"]) == 0
    typed = capsys.readouterr().out.rsplit("Use them: jaxinv ", 1)[1].split()
    assert cli.main([*typed, *options, "--reference", "picture.png"]) == 0
    image = np.load("reconstruction.npy")
    assert f"PSNR {psnr(image, data.picture('picture.png')):.2f} dB" in capsys.readouterr().out
    assert psnr(image, TRUE) > least


@pytest.mark.slow
def test_error_bars_of_a_folder_of_pictures(folder, capsys):
    Image.open("pictures/29.png").save("one.png")
    assert cli.main(["simulate", "one.png", "--operator", "blur:1", "--noise", "0.05", "--output", "y.h5"]) == 0
    own = ["reconstruct", "y.h5", "--operator", "y.toml", "--prior", "gaussian:pictures", "--samples", "4"]
    assert cli.main([*own, "--output", "x.nii.gz"]) == 0
    assert "30 images" in capsys.readouterr().out
    image, deviation = io.read_image("x.nii.gz"), io.read_image("x_std.nii.gz")
    assert np.load("x_samples.npy").shape == (4, 16, 16, 1)
    assert deviation.min() >= 0
    assert psnr(image, data.picture("one.png")) > 25
    assert (folder / "x_figure.png").is_file()


@pytest.mark.slow
def test_the_centre_of_rotation_of_a_scan(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    angles = np.linspace(0, np.pi, 40, endpoint=False)
    fine = operators.ParallelBeam((96, 96, 1), angles, 163, 0.25, 0.25, centre_offset=-1.4)
    # One bin of the forty is not full, and is left out.
    place = (np.arange(96) - 47.5) / 4
    blob = lambda x, y, r: np.exp(-0.5 * ((place[None] - x) ** 2 + (place[:, None] - y) ** 2) / r**2)
    image = blob(3, 2, 3) + blob(-4, 1, 2) + blob(0, -5, 1.5)
    y = np.asarray(fine(image[..., None].astype(np.float32)))[:, :160, 0].reshape(40, 40, 4).mean(2)
    np.savez("scan.npz", sinogram=y, angles=angles)
    assert cli.main(["calibrate", "scan.npz", "--width", "3"]) == 0
    found = float(capsys.readouterr().out.rsplit("--offset ", 1)[1])
    # The middle of what is left is 3/8 of a bin to the left.
    np.testing.assert_allclose(found, -1.4 - 0.375, atol=0.15)


@pytest.mark.slow
def test_a_deep_image_prior(folder):
    own = ["reconstruct", "scan.tif", "--flat", "flat.tif", "--dark", "dark.tif", "--operator", "parallel:0:180"]
    assert cli.main([*own, "--prior", "dip", "--steps", "40", "--size", "16", "--output", "x.png"]) == 0
    assert data.picture("x.png").shape == (16, 16, 1)
    assert not (folder / ".jaxinv").exists()


WRONG = {
    "no file": (["none.tif", "--operator", "identity"], "no file none.tif"),
    "no operator": (["picture.png"], "How was picture.png measured"),
    "unknown operator": (["picture.png", "--operator", "blurr:2"], "is none of identity, mask"),
    "no kernel": (["picture.png", "--operator", "blur"], "the standard deviation in pixels"),
    "no angles": (["scan.tif", "--operator", "parallel"], "does not say its angles"),
    "half an angle": (["scan.tif", "--operator", "parallel:0:180:2.5"], "positive whole number"),
    "too many angles": (["scan.tif", "--operator", "parallel:0:180:7"], "7 angles, and scan.tif has 24"),
    "no such slice": (["scan.tif", "--operator", "parallel:0:180", "--slice", "2"], "has 2 slices"),
    "another flat": (
        ["scan.tif", "--operator", "parallel:0:180", "--flat", "mask.png"],
        "those of scan.tif have (2, 24)",
    ),
    "dark alone": (["scan.tif", "--operator", "parallel:0:180", "--dark", "dark.tif"], "--dark needs --flat"),
    "another mask": (["scan.tif", "--operator", "mask:mask.png"], "must be of the same size"),
    "a black mask": (["picture.png", "--operator", "mask:black.png"], "nothing is known"),
    "a scan's option": (["picture.png", "--operator", "identity", "--size", "3"], "--size do not apply"),
    "a large kernel": (["picture.png", "--operator", "blur:9"], "55 x 55"),
    "real k-space": (["picture.png", "--operator", "fourier:mask.png"], "complex values"),
    "complex picture": (["kspace.npy", "--operator", "identity"], "holds complex values"),
    "another matrix": (["picture.png", "--operator", "matrix:matrix.npy"], "a row for each of the 256"),
    "a wrong table": (["picture.png", "--operator", "wrong.toml"], "and not 'sigma'"),
    "no table": (["picture.png", "--operator", "none.toml"], "there is no such file"),
    "unknown prior": (["picture.png", "--operator", "identity", "--prior", "tvv"], "is none of tv, tikhonov"),
    "no prior file": (
        ["picture.png", "--operator", "identity", "--prior", "picture.png"],
        "no file that `jaxinv train`",
    ),
    "another folder": (["picture.png", "--operator", "identity", "--prior", "gaussian:small"], "shape (8, 8, 1)"),
    "a vain sample": (["picture.png", "--operator", "identity", "--samples", "3"], "tv has no samples"),
    "a vain weight": (
        ["picture.png", "--operator", "identity", "--prior", "dip", "--weight", "3"],
        "for tv and tikhonov",
    ),
    "no scan": (["picture.png", "--operator", "identity", "--prior", "fbp"], "for scans"),
    "format": (["picture.png", "--operator", "identity", "--output", "x.gif"], "should end in one of"),
    "no folder": (["picture.png", "--operator", "identity", "--output", "none/x.npy"], "Cannot write"),
    "overwriting": (["picture.png", "--operator", "identity", "--output", "picture.png"], "would overwrite"),
    "overwriting the operator": (
        ["picture.png", "--operator", "own.toml", "--output", "kernel.npy"],
        "would overwrite kernel.npy",
    ),
    "overwriting the angles": (
        ["scan.tif", "--operator", "parallel:angles.npy", "--output", "angles.npy"],
        "would overwrite angles.npy",
    ),
    "overwriting a picture of the prior": (
        ["picture.png", "--operator", "identity", "--prior", "gaussian:pictures", "--output", "pictures/0.png"],
        "would overwrite pictures/0.png",
    ),
    "a number without end": (["picture.png", "--operator", "blur:1e308"], "of at most 1e+09"),
    "an integer without end": (
        ["picture.png", "--operator", "endless.toml"],
        "factor should be a positive whole number",
    ),
    "angles without end": (["scan.tif", "--operator", "parallel:0:180:1e18"], "whole number up to"),
    "an image without end": (["picture.png", "--operator", "downsample:90000"], "are made"),
    "complex angles": (["scan.tif", "--operator", "parallel:complex.npy"], "real and finite"),
    "a complex matrix": (["row.npy", "--operator", "matrix:kspace.npy"], "complex entries"),
    "a complex scan": (["complex.npz"], "holds complex values"),
    "moved": (["prior.safetensors", "--task", "deblurring"], "`jaxinv evaluate`"),
}


@pytest.mark.parametrize("row", WRONG)
def test_a_wrong_argument_is_said_before_any_work(row, folder, capsys, monkeypatch):
    arguments, fragment = WRONG[row]
    before = {path.name for path in folder.iterdir()}

    def work(*_):
        raise AssertionError("it has begun to work")

    monkeypatch.setattr(_operator, "measured", work)
    began = time.perf_counter()
    assert cli.main(["reconstruct", *arguments, "--no-cache"]) == 1
    assert time.perf_counter() - began < 1
    assert fragment in capsys.readouterr().err
    assert {path.name for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["picture.png", "--operator", "parallel"], "a scan needs its angles"),
        (["none.png", "--operator", "identity"], "no file none.png"),
        (["picture.png", "--operator", "downsample:3"], "does not divide"),
        (["picture.png", "--operator", "identity", "--output", "y.png"], "should end in one of"),
        (["picture.png", "--operator", "fourier:mask.png", "--output", "y.tif"], "k-space is complex"),
        (["kspace.npy", "--operator", "matrix:mask.png"], "complex values"),
        (["picture.png", "--operator", "blur.toml", "--output", "blur.npz"], "would overwrite blur.toml"),
        (["picture.png", "--operator", "parallel:complex.npy"], "real and finite"),
    ],
    ids=str,
)
def test_what_cannot_be_simulated_is_said(arguments, fragment, folder, capsys):
    assert cli.main(["simulate", *arguments]) == 1
    assert fragment in capsys.readouterr().err


@pytest.mark.parametrize("seed", ["-1", "1.5", str(2**63), "a"])
def test_what_is_no_seed(seed, capsys):
    for command in (["reconstruct", "x"], ["simulate", "x", "--operator", "identity"], ["demo"], ["train", "vae"]):
        with pytest.raises(SystemExit):
            cli.main([*command, "--seed", seed])
        assert "whole number from 0" in capsys.readouterr().err


def test_the_header_of_a_network_is_read_without_its_weights(tmp_path):
    path = tmp_path / "x.safetensors"
    entry = {"kind": "vae", "image_shape": [4, 4, 1]}
    io.save(path, {"a": np.ones(3)}, metadata={"jaxinv.network": json.dumps(entry)})
    assert _chosen_prior.describe(path) == entry
    # A kind of a later version, and one that is no network.
    for kind in ("transformer", "tv"):
        io.save(path, {"a": np.ones(3)}, metadata={"jaxinv.network": json.dumps(entry | {"kind": kind})})
        with pytest.raises(ValueError, match=f"of the kind '{kind}', and this version knows"):
            _chosen_prior.choose(str(path))
    assert {*_chosen_prior.TRAINED, *_chosen_prior.NAMES, _chosen_prior.FOLDER} == set(SOLVERS)


def test_noise_is_estimated(folder):
    rng = np.random.default_rng(1)
    smooth = np.hypot(*np.meshgrid(np.linspace(-1, 1, 64), np.linspace(0, 1, 64)))[..., None]
    known = np.broadcast_to(np.arange(64)[:, None, None] % 8 > 0, smooth.shape)
    for level in (0.01, 0.1):
        y = (smooth + level * rng.standard_normal(smooth.shape)).astype(np.float32)
        for operator in (operators.Identity(smooth.shape), operators.Mask(known.astype(np.float32))):
            own = _operator.Own("", operator, np.where(np.asarray(operator.measured) > 0, y, 0), None, None)
            np.testing.assert_allclose(_operator.noise_level(own), level, rtol=0.1)
    k = np.fft.fftshift(np.fft.fft2(smooth[..., 0], norm="ortho"))[..., None]
    k = k + 0.02 * (rng.standard_normal(k.shape) + 1j * rng.standard_normal(k.shape))
    fourier = operators.MaskedFourier(np.ones(k.shape, np.float32))
    np.testing.assert_allclose(_operator.noise_level(_operator.Own("", fourier, k, None, None)), 0.02, rtol=0.2)


def test_angles_of_all_kinds(tmp_path):
    np.save(tmp_path / "angles.npy", np.array([0.0, 90, 45]))
    for text, expected in (
        ("parallel:0:180", np.arange(4) * 45.0),
        (f"parallel:{tmp_path / 'angles.npy'}", [0.0, 90, 45]),
        ("fan:9:3:-90:90:3", [-90.0, -30, 30]),
    ):
        np.testing.assert_allclose(_spec.degrees(_spec.parse(text), 4), expected)
    (tmp_path / "scan.toml").write_text('kind = "parallel"\nangles = [0, 1, 5]\n')
    np.testing.assert_allclose(_spec.degrees(_spec.parse(str(tmp_path / "scan.toml")), 4), [0, 1, 5])
