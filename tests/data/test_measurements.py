import sys

import numpy as np
import pytest
import scipy.io

from jaxinv import data
from jaxinv._commands._user_file import SINOGRAMS, Request
from jaxinv.data import _files

h5py = pytest.importorskip("h5py")


def real(name):
    for folder in _files.folders():
        if (folder / "ct" / name).is_file():
            return folder / "ct" / name
    return pytest.skip(f"ct/{name} is in none of {_files.folders()}")


# HTC2022


def fan_fbp(sinogram, geometry, size, pixel):
    """Filtered back-projection for a flat detector in plain numpy, y up, to test the geometry independently."""
    angles, source, bins = geometry["angles"], geometry["source_origin"], geometry["num_detectors"]
    spacing = geometry["detector_spacing"] * source / (source + geometry["origin_detector"])
    position = (np.arange(bins) - (bins - 1) / 2) * spacing
    lag = np.minimum(np.arange(2048), 2048 - np.arange(2048))
    ramp = np.where(lag % 2 == 1, -1 / (np.pi * np.maximum(lag, 1) * spacing) ** 2, 0.0)
    ramp[0] = 1 / (4 * spacing**2)
    weighted = sinogram * source / np.hypot(source, position)
    filtered = np.fft.irfft(np.fft.rfft(weighted, 2048) * np.fft.rfft(ramp), 2048)[:, :bins] * spacing
    x, y = np.meshgrid(*[(np.arange(size) - (size - 1) / 2) * pixel] * 2)
    y = -y
    image = np.zeros((size, size))
    for row, t in zip(filtered, angles, strict=True):
        depth = source - x * np.sin(t) + y * np.cos(t)
        place = (x * np.cos(t) + y * np.sin(t)) * source / depth / spacing + (bins - 1) / 2
        image += (source / depth) ** 2 * np.interp(place.ravel(), np.arange(bins), row).reshape(size, size)
    return image * np.pi / len(angles)


def test_htc2022_real():
    sinogram, geometry = data.htc2022(real("htc2022/htc2022_ta_full.mat"))
    assert sinogram.shape == (720, 560, 1)
    assert set(geometry) == {"angles", "num_detectors", "detector_spacing", "source_origin", "origin_detector"}
    np.testing.assert_allclose(geometry["angles"], np.pi / 2 + np.deg2rad(np.arange(720) / 2), atol=1e-12)
    assert geometry["num_detectors"] == 560
    assert geometry["detector_spacing"] == pytest.approx(0.2)
    assert geometry["source_origin"] == pytest.approx(410.66)
    assert geometry["source_origin"] + geometry["origin_detector"] == pytest.approx(553.74)
    # what is static in the operator is a Python number
    assert all(type(value) in (int, float) for name, value in geometry.items() if name != "angles")

    reference = scipy.io.loadmat(real("htc2022/htc2022_ta_full_recon_fbp.mat"))["reconFullFbp"]
    reference = reference.T[::-1].reshape(128, 4, 128, 4).mean((1, 3)) / 0.14832
    few = {**geometry, "angles": geometry["angles"][::4]}
    image = fan_fbp(sinogram[::4, :, 0], few, 128, 4 * 0.14832)
    # a quarter of the angles on a quarter of the grid correlates .978; a wrong orientation gives below .8
    assert np.corrcoef(image.ravel(), reference.ravel())[0, 1] > 0.97
    assert np.sum(image * reference) / np.sum(image**2) == pytest.approx(1, abs=0.04)


def htc_record(**changes):
    parameters = {
        "angles": np.arange(0, 361, 45.0),
        "numDetectorsPost": 6,
        "distanceUnit": "mm",
        "distanceSourceOrigin": 400.0,
        "distanceSourceDetector": 550.0,
        "pixelSizePost": 0.2,
    }
    record = {"type": "2d", "sinogram": np.arange(9 * 6.0).reshape(9, 6) + 0.5, "parameters": parameters}
    for name, value in changes.items():
        place = record if name in record else parameters
        if value is None:
            del place[name]
        else:
            place[name] = value
    return record


def save_htc(path, compress=True, variable="CtDataFull", **changes):
    scipy.io.savemat(path, {variable: htc_record(**changes)}, do_compression=compress)
    return path


@pytest.mark.parametrize("compress", [True, False])
def test_htc2022_reads_its_parameters(tmp_path, compress):
    sinogram, geometry = data.htc2022(save_htc(tmp_path / "x.mat", compress))
    np.testing.assert_array_equal(sinogram, htc_record()["sinogram"][:8, :, None])
    np.testing.assert_allclose(geometry.pop("angles"), np.arange(8) * np.pi / 4 + np.pi / 2)
    assert geometry == {
        "num_detectors": 6,
        "detector_spacing": 0.2,
        "source_origin": 400.0,
        "origin_detector": 150.0,
    }


def test_htc2022_of_limited_angles_keeps_all_rows(tmp_path):
    path = save_htc(tmp_path / "x.mat", variable="CtDataLimited", angles=np.arange(0, 90, 10.0))
    assert data.htc2022(str(path))[0].shape == (9, 6, 1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pixelSizePost": None}, "lacks the field 'pixelSizePost'"),
        ({"sinogram": None}, "lacks the field 'sinogram'"),
        ({"angles": np.arange(8.0)}, "8 angles and 6 detectors"),
        ({"numDetectorsPost": 7}, "9 angles and 7 detectors"),
        ({"sinogram": np.full((9, 6), np.nan)}, "54 non-finite"),
        ({"sinogram": "none"}, "should be numbers"),
        ({"distanceUnit": "inch"}, "'inch'"),
        ({"distanceSourceOrigin": -1.0}, "no scanner"),
        ({"variable": "reconFullFbp"}, r"holds \['reconFullFbp'\]"),
    ],
)
def test_htc2022_of_other_contents_is_named(tmp_path, changes, words):
    path = save_htc(tmp_path / "broken.mat", **changes)
    with pytest.raises(ValueError, match=words) as caught:
        data.htc2022(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("part", [0.0, 0.05, 0.3, 0.7, 0.999])
def test_htc2022_truncated_is_named(tmp_path, compress, part):
    raw = save_htc(tmp_path / "whole.mat", compress).read_bytes()
    path = tmp_path / "part.mat"
    path.write_bytes(raw[: int(part * len(raw))])
    with pytest.raises(ValueError, match=r"part\.mat is not a MATLAB file, or it is truncated or corrupt"):
        data.htc2022(path)


def test_htc2022_with_any_flipped_byte_is_named(tmp_path):
    raw = save_htc(tmp_path / "whole.mat").read_bytes()
    path = tmp_path / "flipped.mat"
    # after the 124 bytes of text at the start; the stream's own checksum tells
    for position in range(128, len(raw), 7):
        path.write_bytes(raw[:position] + bytes([raw[position] ^ 0x41]) + raw[position + 1 :])
        with pytest.raises(ValueError, match=r"flipped\.mat"):
            data.htc2022(path)


def test_htc2022_of_matlab_73_is_named(tmp_path):
    path = tmp_path / "new.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        file["CtDataFull"] = np.zeros(3)
    with pytest.raises(ValueError, match=r"new\.mat.*MATLAB 7\.3"):
        data.htc2022(path)


@pytest.mark.parametrize("reader", [data.htc2022, data.tooth])
def test_bad_path(reader, tmp_path):
    with pytest.raises(ValueError, match=r"there is no file .*nothing\.mat"):
        reader(tmp_path / "nothing.mat")
    with pytest.raises(ValueError, match="is not a file"):
        reader(tmp_path)
    with pytest.raises(ValueError, match="got 3"):
        reader(3)
    (tmp_path / "text").write_text("<!DOCTYPE html>" * 100)
    with pytest.raises(ValueError, match="text is not a"):
        reader(tmp_path / "text")


# tooth


def parallel(angles, bins, centre):
    """Exact line integrals of three ellipses off the axis, in bins, for an axis of rotation at bin `centre`."""
    s = np.arange(bins) - centre
    total = np.zeros((len(angles), bins))
    for value, a, b, x, y, phi in ((0.02, 45, 30, 5, 8, 0.4), (0.03, 12, 9, -15, 12, 1.1), (-0.01, 6, 14, 20, -4, 0)):
        t = angles[:, None]
        width = np.sqrt((a * np.cos(t - phi)) ** 2 + (b * np.sin(t - phi)) ** 2)
        offset = s - x * np.cos(t) - y * np.sin(t)
        total += 2 * value * a * b / width**2 * np.sqrt(np.maximum(width**2 - offset**2, 0))
    return total


def save_tooth(path, degrees, centre, **changes):
    rng = np.random.default_rng(0)
    dark = rng.uniform(90, 110, (4, 2, 160))
    white = rng.uniform(25_000, 26_000, (3, 2, 160))
    clean = parallel(np.deg2rad(degrees), 160, centre)
    clean = np.stack([clean, 0.5 * clean], 1)
    counts = dark.mean(0) + (white - dark.mean(0)).mean(0) * np.exp(-clean)
    contents = {"data": counts, "data_white": white, "data_dark": dark, "theta": degrees}
    with h5py.File(path, "w") as file:
        for name, value in {**contents, **changes}.items():
            if value is not None:
                file[f"exchange/{name}"] = np.asarray(value)
    return clean.transpose(1, 0, 2)


TURN = np.arange(181) * 180 / 181


@pytest.mark.parametrize("degrees", [TURN, np.arange(181.0), np.arange(0.0, 180.0), -TURN, 30 + TURN])
@pytest.mark.parametrize("centre", [79.5, 66.3])
def test_tooth_of_known_geometry(tmp_path, degrees, centre):
    clean = save_tooth(tmp_path / "x.h5", degrees, centre)
    sinogram, geometry = data.tooth(tmp_path / "x.h5")
    assert sinogram.dtype == np.float32
    # float32 holds line integrals of size 1 to 1e-7
    np.testing.assert_allclose(sinogram[..., 0], clean, atol=1e-6)
    np.testing.assert_allclose(geometry["angles"], np.deg2rad(degrees))
    assert geometry["num_detectors"] == 160
    # bin k lies at k - 79.5 + centre_offset, which must be 0 for the bin of the axis
    assert abs(geometry["centre_offset"] - (79.5 - centre)) < 0.15


@pytest.mark.parametrize("degrees", [np.arange(0, 120.0), np.arange(0, 361.0, 4), np.sort(TURN**2 / 180)])
def test_tooth_without_opposite_rows_has_no_centre(tmp_path, degrees):
    save_tooth(tmp_path / "x.h5", degrees, 70.0)
    assert set(data.tooth(tmp_path / "x.h5")[1]) == {"angles", "num_detectors"}


def spoiled(place, value=None, factor=None):
    """What spoils a measurement at a place: by a number of counts, or by a factor of those above the dark field."""

    def spoil(counts, white, dark):
        background = np.broadcast_to(dark.mean(0), counts.shape)[place]
        counts[place] = value if factor is None else background + factor * (counts[place] - background)

    return spoil


def both(*spoils):
    return lambda *fields: [spoil(*fields) for spoil in spoils]


ALL = slice(None)
FAULTS = {f"dust on bin {c}": spoiled((ALL, ALL, c), factor=0.02) for c in (9, 40, 66, 75, 110, 150)}
FAULTS |= {f"bin {c} is dead": spoiled((ALL, ALL, c), 0) for c in (9, 40, 66, 75, 110)}
FAULTS |= {f"bin {c} is hot": spoiled((ALL, ALL, c), 65_535) for c in (40, 66, 110)}
FAULTS |= {
    "wide dust": spoiled((ALL, ALL, slice(50, 53)), factor=0.1),
    "five are dead": spoiled((ALL, ALL, slice(50, 55)), 0),
    "every fifteenth is dead": spoiled((ALL, ALL, slice(3, 150, 15)), 0),
    "two are dead and one is hot": both(spoiled((ALL, ALL, [30, 90]), 0), spoiled((ALL, ALL, 120), 65_535)),
    "a speck in the first frame": spoiled((0, ALL, 50), 65_535),
    "a speck in the last frame": spoiled((-1, ALL, 50), 65_535),
    "the first frame was dropped": spoiled((0,), 0),
    "the last frame was dropped": spoiled((-1,), 0),
    "the last two frames were dropped": spoiled((slice(-2, None),), factor=0),
    "the last but one frame was dropped": spoiled((-2,), 0),
    "a flat field holds NaN": lambda counts, white, dark: white.__setitem__((1, ALL, 50), np.nan),
    "a dark field holds NaN": lambda counts, white, dark: dark.__setitem__((0,), np.nan),
}


@pytest.mark.parametrize("row", FAULTS)
def test_no_fault_of_the_detector_moves_the_axis(row, tmp_path):
    save_tooth(tmp_path / "clean.h5", TURN, 66.3)
    with h5py.File(tmp_path / "clean.h5") as file:
        fields = {name: file[f"exchange/{name}"][()] for name in ("data", "data_white", "data_dark")}
    FAULTS[row](*fields.values())
    save_tooth(tmp_path / "x.h5", TURN, 66.3, **fields)
    sinogram, geometry = data.tooth(tmp_path / "x.h5")
    assert np.isfinite(sinogram).all()
    assert abs(geometry["centre_offset"] - 13.2) < 0.15


def test_the_offset_of_a_user_is_taken_for_every_sinogram(tmp_path):
    request = lambda name, **offset: Request(
        tmp_path / name, **(dict.fromkeys(Request._fields[1:]) | {"every": 1, "size": 24} | offset)
    )
    offset_of = lambda request: SINOGRAMS[request.file.suffix](request)[2]["centre_offset"]
    save_tooth(tmp_path / "x.h5", TURN, 70.0)
    np.testing.assert_allclose(offset_of(request("x.h5")), 9.5, atol=0.15)
    assert offset_of(request("x.h5", offset=0.0)) == 0
    save_htc(tmp_path / "x.mat")
    np.testing.assert_allclose(offset_of(request("x.mat", offset=2.0)), 0.4)


def test_tooth_of_dead_pixels_is_finite(tmp_path):
    save_tooth(tmp_path / "x.h5", TURN, 79.5, data=np.zeros((181, 2, 160)))
    sinogram, _ = data.tooth(tmp_path / "x.h5")
    assert np.isfinite(sinogram).all()
    # half a count against a flat field of about 25 400
    assert np.abs(sinogram - np.log(25_400 / 0.5)).max() < 0.05


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data_dark": None}, "no data set exchange/data_dark"),
        ({"theta": np.arange(7.0)}, r"\(181, 2, 160\) and \(7,\)"),
        ({"data_white": np.ones((3, 2, 161))}, r"data_white should .*\(frames, 2, 160\); it has \(3, 2, 161\)"),
        ({"data": np.full((181, 2, 160), np.inf)}, "non-finite"),
        ({"data_white": np.full((3, 2, 160), np.nan)}, "finite in no frame"),
        ({"theta": "none"}, "not an HDF5 file in the Data Exchange layout"),
    ],
)
def test_tooth_of_other_contents_is_named(tmp_path, changes, words):
    changes = {k: np.bytes_(v) if isinstance(v, str) else v for k, v in changes.items()}
    save_tooth(tmp_path / "broken.h5", TURN, 79.5, **changes)
    with pytest.raises(ValueError, match=words) as caught:
        data.tooth(tmp_path / "broken.h5")
    assert str(tmp_path / "broken.h5") in str(caught.value)


@pytest.mark.parametrize("part", [0.0, 0.001, 0.3, 0.7, 0.999])
def test_tooth_truncated_is_named(tmp_path, part):
    save_tooth(tmp_path / "whole.h5", TURN, 79.5)
    raw = (tmp_path / "whole.h5").read_bytes()
    (tmp_path / "part.h5").write_bytes(raw[: int(part * len(raw))])
    with pytest.raises(ValueError, match=r"part\.h5 is not an HDF5 file"):
        data.tooth(tmp_path / "part.h5")


def test_tooth_without_h5py(tmp_path, monkeypatch):
    save_tooth(tmp_path / "x.h5", TURN, 79.5)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ValueError, match=r"jaxinv\[demo\]"):
        data.tooth(tmp_path / "x.h5")


def test_tooth_real():
    sinogram, geometry = data.tooth(real("tooth.h5"))
    assert sinogram.shape == (2, 181, 640, 1)
    assert np.isfinite(sinogram).all()
    np.testing.assert_allclose(geometry["angles"], np.arange(181) * np.pi / 181, atol=1e-6)
    # air beside the tooth
    assert abs(sinogram[:, :, :100].mean()) < 0.01
    assert 1 < sinogram.max() < 3
    # The centre of mass of a projection moves as a cosine about the axis (mass is conserved; some air noise): an
    # independent estimate, good to about half a bin.
    s = np.arange(640) - 319.5
    t = geometry["angles"]
    mass_centre = (sinogram[..., 0] * s).sum((0, 2)) / sinogram[..., 0].sum((0, 2))
    fit = np.linalg.lstsq(np.stack([np.ones_like(t), np.cos(t), np.sin(t)], 1), mass_centre, rcond=None)[0]
    assert abs(geometry["centre_offset"] + fit[0]) < 0.7
