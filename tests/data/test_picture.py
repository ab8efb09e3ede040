"""Pictures of files that a user may have."""

import numpy as np
import pytest
from PIL import Image

from jaxinv import data

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
COLOURS = np.stack([GREY, 255 - GREY, GREY // 2], axis=-1)
KINDS = {
    "grey": (Image.fromarray(GREY), GREY[..., None] / 255),
    "black and white": (Image.fromarray(GREY > 100), (GREY > 100)[..., None] * 1.0),
    "16 bits": (Image.fromarray(GREY.astype(np.uint16) * 257), GREY[..., None] / 255),
    "colours": (Image.fromarray(COLOURS), COLOURS / 255),
    "transparent": (Image.fromarray(np.concatenate([COLOURS, 0 * COLOURS[..., :1]], -1)), COLOURS / 255),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_png_of_any_kind(kind, tmp_path):
    image, expected = KINDS[kind]
    image.save(tmp_path / "picture.png")
    found = data.picture(tmp_path / "picture.png")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-7)


@pytest.mark.parametrize(
    "values",
    [GREY, GREY / 255, COLOURS, COLOURS.astype(np.uint16) * 257],
    ids=["grey", "floating", "colours", "16 bits"],
)
def test_an_array(values, tmp_path):
    np.save(tmp_path / "picture.npy", values)
    found = data.picture(str(tmp_path / "picture.npy"))
    whole = values if values.ndim == 3 else values[..., None]
    np.testing.assert_allclose(found, whole / (np.iinfo(whole.dtype).max if whole.dtype.kind == "u" else 1), rtol=1e-6)


def test_what_is_not_a_picture(tmp_path):
    false = tmp_path / "false.png"
    false.write_bytes(b"GIF89a" + bytes(40))
    with pytest.raises(ValueError, match=r"false\.png is not a PNG"):
        data.picture(false)
    cut = tmp_path / "cut.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)).save(cut)
    cut.write_bytes(cut.read_bytes()[:1000])
    with pytest.raises(ValueError, match="damaged"):
        data.picture(cut)
    with pytest.raises(ValueError, match="there is no file"):
        data.picture(tmp_path / "none.png")
    objects = tmp_path / "objects.npy"
    np.save(objects, np.array([[None]]), allow_pickle=True)
    with pytest.raises(ValueError, match=r"objects\.npy is not an array"):
        data.picture(objects)
    for values, fragment in (
        (np.zeros((2, 3, 4)), r"it has \(2, 3, 4\)"),
        (np.zeros((3, 3), complex), "complex128"),
        (np.full((3, 3), np.nan), "finite"),
    ):
        np.save(tmp_path / "bad.npy", values)
        with pytest.raises(ValueError, match=fragment):
            data.picture(tmp_path / "bad.npy")
