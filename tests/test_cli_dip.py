"""`jaxinv dip`, as a user types it."""

import numpy as np
import pytest
from PIL import Image

from jaxinv import cli, data, operators
from jaxinv._commands import _dip
from jaxinv._commands._user_file import Request, Scale, measure

TRUE = data.shepp_logan(16)
QUICK = ["--steps", "30", "--network", "deep", "--stopping", "fixed"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    grey = np.uint8(255 * np.asarray(TRUE[..., 0]))
    Image.fromarray(grey).save("picture.png")
    Image.fromarray(np.where(np.arange(256).reshape(16, 16) % 3, 255, 0).astype(np.uint8)).save("mask.png")
    Image.fromarray(grey.reshape(8, 2, 8, 2).mean((1, 3)).astype(np.uint8)).save("small.png")
    angles = np.linspace(0, np.pi, 12, endpoint=False)
    sinogram = operators.ParallelBeam((16, 16, 1), angles, 24)(TRUE)
    np.save("sinogram.npy", np.asarray(sinogram[..., 0]))
    fan = operators.FanBeam((16, 16, 1), 2 * angles, 30, 1.0, 40.0, 20.0, centre_offset=2.0)(TRUE)
    np.save("fan.npy", np.asarray(fan[..., 0]))
    return tmp_path


TASKS = {
    "denoising": (["picture.png"], "Denoising 16 x 16", (16, 16, 1)),
    "crop": (["picture.png", "--crop", "10"], "Denoising 10 x 10", (10, 10, 1)),
    "inpainting": (["picture.png", "--mask", "mask.png"], "Inpainting 34 %", (16, 16, 1)),
    "enlarging": (["small.png", "--factor", "2"], "Enlarging 8 x 8 pixels 2 times", (16, 16, 1)),
    "tomography": (
        ["sinogram.npy", "--angles", "0:180", "--every", "2", "--size", "24"],
        "6 of 12 angles, 24 x 24",
        (24, 24, 1),
    ),
    "fan": (
        ["fan.npy", "--angles", "0:360", "--fan", "40:20", "--offset", "2", "--size", "24"],
        "12 of 12 angles, 24 x 24",
        (24, 24, 1),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_a_file_of_ones_own(task, folder, capsys):
    arguments, heading, shape = TASKS[task]
    known = ["--reference", "picture.png"] if shape != (24, 24, 1) else []
    assert cli.main(["dip", *arguments, *known, *QUICK]) == 0
    printed = capsys.readouterr()
    assert heading in printed.out
    assert ("PSNR" in printed.out) == bool(known)
    image = np.load("reconstruction.npy")
    assert image.shape == shape
    picture = data.picture("reconstruction.png")
    assert picture.shape == shape
    left = {path.name for path in folder.iterdir()} - {
        "picture.png",
        "mask.png",
        "small.png",
        "sinogram.npy",
        "fan.npy",
    }
    assert left == {"reconstruction.npy", "reconstruction.png"}
    # A sinogram's unit is its own; the picture of its image goes from black to white.
    black, white = (0, 1) if known else (image.min(), image.max())
    np.testing.assert_allclose(picture, np.clip((image - black) / (white - black), 0, 1), atol=0.02)


def request_of(file, **options):
    return Request(file, **(dict.fromkeys(Request._fields[1:]) | {"every": 1, "size": 24} | options))


PICTURES = {
    "8 bits": np.arange(51, 205).reshape(11, 14).astype(np.uint8),
    "in [0, 1]": np.linspace(0.2, 0.8, 154).reshape(11, 14),
    "0 to 255": np.arange(51.0, 205.0).reshape(11, 14),
    "Hounsfield units": np.arange(-1000, 2080, 20).reshape(11, 14).astype(np.int16),
    "long integers": np.arange(154).reshape(11, 14),
    "negative": -np.arange(1.0, 155.0).reshape(11, 14),
    "tiny": 1e-6 * np.arange(-5.0, 149.0).reshape(11, 14),
    "constant": np.full((11, 14), 7.0),
}


@pytest.mark.parametrize("row", PICTURES)
@pytest.mark.parametrize("task", ["denoise", "inpaint", "enlarge"])
def test_a_network_can_make_every_picture(row, task, tmp_path):
    np.save(tmp_path / "x.npy", PICTURES[row])
    np.save(tmp_path / "mask.npy", np.ones((11, 14)))
    options = {"inpaint": {"mask": tmp_path / "mask.npy"}, "enlarge": {"factor": 2}}.get(task, {})
    measured = measure(request_of(tmp_path / "x.npy", **options))
    y, scale, values = np.asarray(measured.y), measured.scale, data.picture(tmp_path / "x.npy")
    np.testing.assert_allclose(scale.write(y), values, rtol=1e-5, atol=1e-6 * np.abs(values).max())
    if values.min() >= 0 and values.max() <= 1:
        assert scale == Scale()
        assert measured.level == (0.1 if task == "denoise" else 0.01)
    else:
        # Neither end of (0, 1), which a sigmoid does not reach.
        assert 0.05 < y.min() <= y.max() < 0.95
        np.testing.assert_allclose(np.ptp(y), scale.peak if row != "constant" else 0, atol=1e-6)


def test_what_is_unknown_has_no_part_in_the_range(tmp_path):
    image, mask = np.full((8, 8), 100.0), np.ones((8, 8))
    image[0], image[1], mask[0] = -9999, 200, 0
    np.save(tmp_path / "x.npy", image)
    np.save(tmp_path / "mask.npy", mask)
    scale = measure(request_of(tmp_path / "x.npy", mask=tmp_path / "mask.npy")).scale
    np.testing.assert_allclose((scale.black, scale.white), (90, 210))


@pytest.mark.parametrize("arc", [90, 180])
def test_a_bead_is_not_too_bright(arc, tmp_path):
    angles = np.deg2rad(np.linspace(0, arc, 30, endpoint=False))
    place = (np.arange(96) - 47.5) / 4
    x, y = place[None], -place[:, None]
    image = 0.5 * (x**2 + y**2 < 80) + 1.5 * ((x - 4) ** 2 + (y - 3) ** 2 < 1)
    fine = operators.ParallelBeam((96, 96, 1), angles, 96, detector_spacing=0.25, pixel_size=0.25)
    np.save(tmp_path / "x.npy", np.asarray(fine(image[..., None].astype(np.float32))).reshape(30, 24, 4).mean(2))
    scale = measure(request_of(tmp_path / "x.npy", angles=(0, arc))).scale
    # Filtered back-projection with a window finds 1.1 of the 2 from half a turn, and .6 from a quarter.
    assert 2 < scale.white < 5


@pytest.mark.slow
def test_the_array_is_in_the_unit_of_the_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    true = -1000 + 2500 * np.asarray(TRUE)[..., 0]
    np.save("hu.npy", true.astype(np.int16))
    options = ["--network", "deep", "--stopping", "fixed", "--steps", "400", "--tv", "0"]
    arguments = ["hu.npy", "--reference", "hu.npy", *options]
    assert cli.main(["dip", *arguments]) == 0
    printed = capsys.readouterr().out
    assert "stand for -1250 to 1750 of the file" in printed
    assert "in the unit of hu.npy" in printed
    error = np.load("reconstruction.npy")[..., 0] - true
    # A constant has 750, and the range is 2500.
    assert np.sqrt(np.mean(error**2)) < 400
    assert f"PSNR {20 * np.log10(2500 / np.sqrt(np.mean(error**2))):.2f} dB" in printed


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["none.png"], "there is no file none.png"),
        (["mask.txt"], "there is no file"),
        (["false.png"], "false.png is not a PNG"),
        (["picture.png", "--mask", "small.png"], "must be of the same size"),
        (["picture.png", "--crop", "17"], "has only 16 x 16 pixels"),
        (["picture.png", "--reference", "small.png"], "(8, 8, 1); the reconstruction has (16, 16, 1)"),
        (["picture.png", "--output", "out.jpg"], "name a picture"),
        (["picture.png", "--output", "none/out.png"], "none/out.png"),
        (["picture.png", "--mask", "black.png"], "no pixel is known"),
        (["sinogram.npy", "--angles", "0:180", "--every", "13"], "only 12 angles"),
        (["sinogram.npy", "--angles", "0:180", "--crop", "4"], "--crop do not apply"),
        (["picture.png", "--fan", "40:20"], "with --angles; picture.png is a picture"),
        (["picture.png", "--offset", "0"], "with --angles; picture.png is a picture"),
        (["zero.npy", "--angles", "0:180"], "no line integrals"),
        (["nan.npy"], "3 non-finite values"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_done_is_said(arguments, fragment, folder, capsys):
    (folder / "false.png").write_bytes(b"no picture")
    Image.fromarray(np.zeros((16, 16), np.uint8)).save("black.png")
    np.save("zero.npy", np.zeros((6, 8)))
    np.save("nan.npy", np.where(np.arange(64) < 3, np.nan, 1.0).reshape(8, 8))
    assert cli.main(["dip", *arguments, *QUICK]) == 1
    assert fragment in capsys.readouterr().err


@pytest.mark.slow
def test_an_output_that_cannot_be_written_loses_no_run(folder, capsys, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(_dip, "_write", full)
        assert cli.main(["dip", "picture.png", *QUICK]) == 1
    assert "No space left on device. The run itself is not lost" in capsys.readouterr().err
    assert (folder / ".jaxinv" / "reconstruction.png.checkpoint").is_file()
    assert cli.main(["dip", "picture.png", *QUICK]) == 0
    assert not (folder / ".jaxinv").exists()
