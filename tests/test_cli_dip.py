"""`jaxinv dip`, as a user types it."""

import numpy as np
import pytest
from PIL import Image

from jaxinv import cli, data, operators
from jaxinv._commands import _dip

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
    # A sinogram's unit is its own; the picture is of the image in units of the brightest pixel of its FBP.
    scale = 1.0 if known else np.median(image[picture > 0.2] / picture[picture > 0.2])
    np.testing.assert_allclose(picture, np.clip(image / scale, 0, 1), atol=0.02)


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
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_done_is_said(arguments, fragment, folder, capsys):
    (folder / "false.png").write_bytes(b"no picture")
    Image.fromarray(np.zeros((16, 16), np.uint8)).save("black.png")
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
