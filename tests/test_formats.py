"""Files of other people: what each format gives, against the library that wrote it, and what is written."""

import dataclasses
import json
import os

import numpy as np
import pytest
import scipy.io
from PIL import Image

from jaxinv import io
from jaxinv._formats import peek

h5py = pytest.importorskip("h5py")
nibabel = pytest.importorskip("nibabel")
pydicom = pytest.importorskip("pydicom")
tensorstore = pytest.importorskip("tensorstore")
tifffile = pytest.importorskip("tifffile")

GREY = np.arange(60, dtype=np.uint16).reshape(6, 10) * 1000
COLOUR = np.arange(180, dtype=np.uint8).reshape(6, 10, 3)
STACK = np.arange(240, dtype=np.float32).reshape(4, 6, 10)


def dicom(path, values=GREY, place=0.0, **more):
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = pydicom.uid.CTImageStorage, "1.2.3"
    found = pydicom.Dataset()
    found.file_meta, found.SOPClassUID, found.SOPInstanceUID = meta, meta.MediaStorageSOPClassUID, "1.2.3"
    found.Modality, found.Rows, found.Columns, found.SamplesPerPixel = "CT", *values.shape, 1
    found.BitsAllocated = found.BitsStored = 16
    found.HighBit, found.PixelRepresentation, found.PhotometricInterpretation = 15, 0, "MONOCHROME2"
    found.RescaleSlope, found.RescaleIntercept, found.PixelSpacing, found.SliceThickness = "2", "-1024", [0.5, 0.7], "3"
    found.ImageOrientationPatient, found.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [-10, -20, place]
    for name, value in more.items():
        setattr(found, name, value)
    found.PixelData = values.tobytes()
    found.save_as(path, enforce_file_format=True)


def exchange(path, theta_unit=None):
    with h5py.File(path, "w") as file:
        file["exchange/data"], file["exchange/theta"] = STACK, [0.0, 45, 90, 135]
        file["exchange/data_white"], file["exchange/data_dark"] = 500 + STACK[:2], 1 + STACK[:1]
        file["measurement/instrument/detector/pixel_size_x"] = 13.0
        file["measurement/instrument/detector/pixel_size_x"].attrs["units"] = "um"
        if theta_unit:
            file["exchange/theta"].attrs["units"] = theta_unit


def nexus(path):
    with h5py.File(path, "w") as file:
        entry = file.create_group("entry1/tomo_entry")
        entry["data/data"], entry["data/rotation_angle"] = STACK, np.array([0.0, 0, 30, 60])
        entry["instrument/detector/image_key"] = [2, 1, 0, 0]


def matlab_7(path):
    with h5py.File(path, "w", userblock_size=512) as file:
        file["sinogram"], file["#refs#/a"] = STACK.T, np.zeros(3)
    with open(path, "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM")


def zarr(path, driver="zarr", array=STACK):
    spec = {"driver": driver, "kvstore": {"driver": "file", "path": f"{path}/"}}
    tensorstore.open(spec, create=True, dtype=array.dtype.name, shape=array.shape).result().write(array).result()


def group(path):
    for name, factor in (("0", 1), ("1", 2)):
        zarr(path / name, "zarr3", STACK[:, ::factor, ::factor])
    (path / "zarr.json").write_text(json.dumps({"zarr_format": 3, "node_type": "group"}))


def folder(path, write, suffix):
    path.mkdir()
    for i in (10, 9, 2, 1):
        write(path / f"slice_{i}{suffix}", i)


def oriented(path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(COLOUR[..., 0]).save(path, exif=exif, **({"quality": 100} if path.suffix == ".jpg" else {}))


PALETTE = Image.fromarray(COLOUR).quantize(4)
HALF = Image.fromarray(np.dstack([COLOUR, np.full((6, 10), 128, np.uint8)]))
ROW = ("row", "column")
VOLUME = ("slice", *ROW)
# The name, what writes it, the values, the axes, and what else is known.
FILES = {
    "npy": ("x.npy", lambda p: np.save(p, STACK), STACK, VOLUME, {"format": "npy"}),
    "npy in another order": ("x.npy", lambda p: np.save(p, GREY.astype(">u2").T), GREY.T, ROW, {}),
    "npz": (
        "x.npz",
        lambda p: np.savez_compressed(p, projections=STACK, theta=[0, 45.0, 90, 135], flat=STACK[0], why=np.array("a")),
        STACK,
        ("angle", "slice", "detector"),
        {"angles": np.arange(4) * np.pi / 4, "flat": STACK[0]},
    ),
    "tiff stack": ("x.tif", lambda p: tifffile.imwrite(p, STACK, photometric="minisblack"), STACK, VOLUME, {}),
    "tiff by pages": (
        "x.tiff",
        lambda p: tifffile.imwrite(p, STACK, photometric="minisblack", compression="zlib"),
        STACK,
        VOLUME,
        {"spacing": None},
    ),
    "tiff in big endian": ("x.tif", lambda p: tifffile.imwrite(p, GREY, byteorder=">"), GREY, ROW, {}),
    "tiff in colour": (
        "x.tif",
        lambda p: tifffile.imwrite(p, COLOUR, photometric="rgb"),
        COLOUR,
        (*ROW, "channel"),
        {},
    ),
    "tiff of ImageJ": (
        "x.tif",
        lambda p: tifffile.imwrite(
            p, STACK, imagej=True, resolution=(4, 2), metadata={"axes": "ZYX", "unit": "um", "spacing": 3.0}
        ),
        STACK,
        VOLUME,
        {"spacing": (3e-3, 5e-4, 2.5e-4)},
    ),
    "tiff of OME": (
        "x.ome.tif",
        lambda p: tifffile.imwrite(
            p, STACK, ome=True, metadata={"axes": "ZYX", "PhysicalSizeX": 2.0, "PhysicalSizeXUnit": "mm"}
        ),
        STACK,
        VOLUME,
        {"spacing": (None, None, 2.0)},
    ),
    "tiff for a printer": (
        "x.tif",
        lambda p: tifffile.imwrite(p, GREY, resolution=(72, 72)),
        GREY,
        ROW,
        {"spacing": None},
    ),
    "dicom": (
        "x.dcm",
        dicom,
        2.0 * GREY - 1024,
        ROW,
        {"spacing": (0.5, 0.7), "unit": "HU", "format": "DICOM"},
    ),
    "dicom without a unit": (
        "x.dcm",
        lambda p: dicom(p, Modality="DX", RescaleType="US"),
        2.0 * GREY - 1024,
        ROW,
        {"unit": ""},
    ),
    "dicom series": (
        "series",
        lambda p: folder(p, lambda q, i: dicom(q, GREY // 10 + i, -float(i)), ".dcm"),
        np.stack([2.0 * (GREY // 10 + i) - 1024 for i in (10, 9, 2, 1)]),
        VOLUME,
        {"unit": "HU"},
    ),
    "tiff series": (
        "series",
        lambda p: folder(p, lambda q, i: tifffile.imwrite(q, GREY + np.uint16(i)), ".tif"),
        np.stack([GREY + np.uint16(i) for i in (1, 2, 9, 10)]),
        VOLUME,
        {},
    ),
    "nifti": (
        "x.nii",
        lambda p: nibabel.save(nibabel.Nifti1Image(STACK.T, np.diag([2.0, 3, 4, 1])), p),
        STACK,
        VOLUME,
        {"spacing": (4.0, 3.0, 2.0), "affine": np.diag([2.0, 3, 4, 1])},
    ),
    "nifti, rescaled": (
        "x.nii.gz",
        lambda p: (
            (image := nibabel.Nifti1Image(GREY.T, np.eye(4))).header.set_slope_inter(0.5, 3.0),
            nibabel.save(image, p),
        ),
        0.5 * GREY + 3,
        ROW,
        {},
    ),
    "exchange": (
        "x.h5",
        exchange,
        STACK,
        ("angle", "slice", "detector"),
        {"angles": np.arange(4) * np.pi / 4, "spacing": (None, 0.013, 0.013), "dark": 1 + STACK[:1]},
    ),
    "exchange in radians": (
        "x.h5",
        lambda p: exchange(p, "rad"),
        STACK,
        ("angle", "slice", "detector"),
        {"angles": np.arange(4) * 45.0},
    ),
    "nexus": (
        "x.nxs",
        nexus,
        STACK[2:],
        ("angle", "slice", "detector"),
        {"angles": np.deg2rad([30.0, 60]), "flat": STACK[1:2], "dark": STACK[:1]},
    ),
    "hdf5 of one set": (
        "x.h5",
        lambda p: h5py.File(p, "w").create_dataset("a/b", data=GREY).file.close(),
        GREY,
        ROW,
        {},
    ),
    "matlab 5": (
        "x.mat",
        lambda p: scipy.io.savemat(p, {"image": GREY, "angles": np.arange(6.0), "s": {"a": 1}}),
        GREY,
        ("angle", "detector"),
        {"angles": np.arange(6.0)},
    ),
    "matlab 5, packed": ("x.mat", lambda p: scipy.io.savemat(p, {"v": STACK}, do_compression=True), STACK, VOLUME, {}),
    "matlab 7.3": ("x.mat", matlab_7, STACK, VOLUME, {"format": "MATLAB"}),
    "zarr 2": ("x.zarr", zarr, STACK, VOLUME, {"format": "Zarr"}),
    "zarr 3": ("x", lambda p: zarr(p, "zarr3"), STACK, VOLUME, {}),
    "zarr of OME": ("x.zarr", group, STACK, VOLUME, {}),
    "png": ("x.png", lambda p: Image.fromarray(COLOUR[..., 0]).save(p), COLOUR[..., 0], ROW, {"format": "PNG"}),
    "png of 16 bits": ("x.png", lambda p: Image.fromarray(GREY).save(p), GREY, ROW, {}),
    "png with alpha": ("x.png", lambda p: HALF.save(p), COLOUR, (*ROW, "channel"), {}),
    "png with a palette": (
        "x.png",
        lambda p: PALETTE.save(p),
        np.asarray(PALETTE.convert("RGB")),
        (*ROW, "channel"),
        {},
    ),
    "png with a clear palette": (
        "x.png",
        lambda p: PALETTE.save(p, transparency=b"\x00\xff\x80\xff"),
        np.asarray(PALETTE.convert("RGB")),
        (*ROW, "channel"),
        {},
    ),
    "png of one bit": ("x.png", lambda p: Image.fromarray(GREY > 30000).save(p), 255 * (GREY > 30000), ROW, {}),
    "png, turned": ("x.png", lambda p: oriented(p, 6), COLOUR[::-1, :, 0].T, ROW, {}),
    "png series": (
        "series",
        lambda p: folder(p, lambda q, i: Image.fromarray(COLOUR[..., 0] + np.uint8(i)).save(q), ".png"),
        np.stack([COLOUR[..., 0] + np.uint8(i) for i in (1, 2, 9, 10)]),
        VOLUME,
        {},
    ),
}


@pytest.mark.parametrize("row", FILES)
def test_what_a_file_holds_is_read(row, tmp_path):
    name, make, values, axes, known = FILES[row]
    make(tmp_path / name)
    measured = io.read(tmp_path / name)
    np.testing.assert_array_equal(measured.values, values)
    assert measured.values.dtype.isnative
    assert measured.axes == axes
    for field, expected in known.items():
        found = getattr(measured, field)
        if expected is None or isinstance(expected, str):
            assert found == expected
        else:
            np.testing.assert_allclose(np.array(found, float), np.array(expected, float), rtol=1e-6)
    header = peek(tmp_path / name)
    assert (header.values.shape, header.axes, header.unit) == (values.shape, axes, measured.unit)
    # One entry of each axis gives what the whole has there.
    for axis, size in enumerate(values.shape):
        if row == "nexus" and axis == 0:
            continue
        part = io.read(tmp_path / name, select={axes[axis]: size - 1})
        np.testing.assert_array_equal(
            part.values, values[tuple(slice(-1, None) if i == axis else slice(None) for i in range(values.ndim))]
        )


def test_a_jpeg_is_what_pillow_says(tmp_path):
    oriented(tmp_path / "x.jpg", 3)
    expected = np.asarray(Image.open(tmp_path / "x.jpg"))[::-1, ::-1]
    np.testing.assert_array_equal(io.read(tmp_path / "x.jpg").values, expected)
    Image.fromarray(COLOUR).convert("CMYK").save(tmp_path / "x.jpeg")
    assert io.read_image(tmp_path / "x.jpeg").shape == (6, 10, 3)


def test_deep_colours_are_not_cut_in_silence(tmp_path):
    from test_readers import deep_png

    (tmp_path / "x.png").write_bytes(deep_png(4, 3))
    with pytest.warns(UserWarning, match="upper 8"):
        assert io.read(tmp_path / "x.png").values.shape == (3, 4, 3)


WRITTEN = {
    "npy": STACK,
    "npz": STACK,
    "tif": STACK,
    "tiff": COLOUR,
    "nii": STACK,
    "nii.gz": GREY,
    "h5": STACK[..., None],
    "png": GREY[..., None],
}


@pytest.mark.parametrize("suffix", WRITTEN)
def test_what_is_written_is_read(suffix, tmp_path):
    path, values = tmp_path / f"x.{suffix}", WRITTEN[suffix]
    io.write(path, values, spacing=0.25)
    measured = io.read(path)
    np.testing.assert_array_equal(
        measured.values, values[..., 0] if values.shape[-1] == 1 and suffix != "h5" else values
    )
    assert measured.values.dtype == values.dtype
    if suffix in ("tif", "nii", "nii.gz", "tiff"):
        assert measured.spacing is not None
        np.testing.assert_allclose([s for s in measured.spacing if s is not None], 0.25)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    first = path.read_bytes()
    io.write(path, values, spacing=0.25)
    assert path.read_bytes() == first


@pytest.mark.parametrize("suffix", ["npz", "h5"])
def test_a_whole_measurement_comes_back(suffix, tmp_path):
    angles = np.arange(4) * 0.3
    known = {"angles": angles, "flat": STACK[:2] + 900, "dark": STACK[:1]}
    scan = io.Measurement(STACK, ("angle", "slice", "detector"), (None, 0.1, 0.1), **known)
    io.write(tmp_path / f"x.{suffix}", scan)
    found = io.read(tmp_path / f"x.{suffix}")
    for name in ("values", "angles", "flat", "dark"):
        np.testing.assert_allclose(getattr(found, name), getattr(scan, name), rtol=1e-12)
    assert found.axes == scan.axes
    if suffix == "h5":
        assert found.spacing == scan.spacing


def test_floating_pictures_are_written_in_their_shades(tmp_path):
    io.write(tmp_path / "x.png", np.linspace(0, 1, 12).reshape(3, 4, 1))
    np.testing.assert_allclose(
        io.read_image(tmp_path / "x.png")[..., 0], np.linspace(0, 1, 12).reshape(3, 4), atol=1e-5
    )


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("x.gif", GREY, "no format that is written"),
        ("x.png", 2.0 * GREY, r"in \[0, 1\]"),
        ("x.png", STACK, "one image"),
        ("x.tif", GREY + 1j, "complex"),
        ("x.nii", COLOUR, "grey images"),
        ("x.npy", np.array(["a"]), "array of numbers"),
        ("none/x.npy", GREY, "Cannot write"),
        ("x.npy", np.float32(1), r"array of numbers is expected; got float32 of shape \(\)"),
        ("x.tif", GREY.astype(np.longdouble), "up to 64 bits"),
        ("x.tif", GREY[0], "images of up to 64 bits"),
        ("x.nii", GREY.astype(np.longdouble), "up to 64 bits"),
    ],
)
def test_what_cannot_be_written_is_said(name, values, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        io.write(tmp_path / name, values)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", ["npy", "tif", "nii", "h5"])
@pytest.mark.parametrize(
    "spacing", [0, -1.0, np.nan, np.inf, "a", True, np.complex64(1), (1.0, "a"), (1.0,) * 3, np.ones((2, 2))], ids=repr
)
def test_what_is_no_spacing(suffix, spacing, tmp_path):
    with pytest.raises(ValueError, match="`spacing` must be a positive number of mm, or 2 of them"):
        io.write(tmp_path / f"x.{suffix}", GREY, spacing=spacing)
    assert not list(tmp_path.iterdir())


def test_spacings_and_dtypes_of_numpy(tmp_path):
    for spacing in (np.float32(0.5), np.array([0.5, 0.5]), [0.5, 0.5]):
        io.write(tmp_path / "x.tif", GREY, spacing=spacing)
        assert io.read(tmp_path / "x.tif").spacing == pytest.approx((0.5, 0.5))
    io.write(tmp_path / "x.nii", np.float16(GREY))
    io.write(tmp_path / "x.h5", GREY + 1j)
    np.testing.assert_array_equal(io.read(tmp_path / "x.nii").values, np.float16(GREY))
    np.testing.assert_array_equal(io.read(tmp_path / "x.h5").values, GREY + 1j)


@pytest.mark.parametrize("path", [None, 3, "~nobody-of-this-name/x.npy", "a" * 300 + ".npy"], ids=str)
def test_what_is_no_path(path):
    from jaxinv.io import read_metadata

    for call in (
        io.read,
        io.read_image,
        read_metadata,
        lambda path: io.write(path, GREY),
        lambda path: io.load(path, {}),
    ):
        with pytest.raises(ValueError, match="`path` must be the path of"):
            call(path)
    if not isinstance(path, str):
        with pytest.raises(ValueError, match="give the path of a file"):
            io.save(path, {"a": GREY})


@pytest.mark.parametrize("select", [{"slice": 1.0}, {"slice": "1"}, {"slice": True}, [1], "slice", 5], ids=repr)
def test_what_selects_nothing(select, tmp_path):
    # The file is sound, and no error says otherwise.
    io.write(tmp_path / "x.npy", STACK)
    with pytest.raises(ValueError, match="`select` must name the number of one entry"):
        io.read(tmp_path / "x.npy", select=select)
    with pytest.raises(ValueError, match="`dataset` must be the name"):
        io.read(tmp_path / "x.npy", dataset=3)
    np.testing.assert_array_equal(io.read(tmp_path / "x.npy", select={"slice": np.int64(1)}).values, STACK[1:2])


def test_line_integrals():
    exact = np.random.default_rng(0).uniform(0.1, 2, (4, 6, 10))
    counts = 10 + 5000 * np.exp(-exact)
    flat, dark = np.full((3, 6, 10), 5010.0), np.full((2, 6, 10), 10.0)
    flat[0] += 5
    flat[1] -= 5
    scan = io.Measurement(counts, ("angle", "slice", "detector"), flat=flat, dark=dark)
    np.testing.assert_allclose(scan.line_integrals().values, exact, rtol=1e-5)
    # What is darker than the dark field has no logarithm.
    black = dataclasses.replace(scan, values=np.zeros((4, 6, 10), np.uint16), dark=None)
    np.testing.assert_allclose(black.line_integrals().values, np.log(5010 / 0.5), rtol=1e-6)
    for wrong, message in (
        ({"flat": None}, "need the flat field"),
        ({"flat": flat[:, :5]}, "shape of a projection"),
        ({"flat": flat * np.nan}, "not finite"),
        ({"flat": 0 * flat}, "exchanged"),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(scan, **wrong).line_integrals()
    with pytest.raises(ValueError, match="an entry of `axes` for each axis"):
        io.Measurement(GREY, ("row",))


def test_an_image_has_channels_last_and_one_slice(tmp_path):
    np.save(tmp_path / "x.npy", (STACK * 100).astype(np.uint16))
    np.testing.assert_allclose(io.read_image(tmp_path / "x.npy", index=2)[..., 0], STACK[2] * 100 / 65535, rtol=1e-6)
    with pytest.raises(ValueError, match="holds 4 images"):
        io.read_image(tmp_path / "x.npy")
    with pytest.raises(ValueError, match="no entry 4 of axis 'slice'"):
        io.read_image(tmp_path / "x.npy", index=4)
    dicom(tmp_path / "x.dcm")
    assert io.read_image(tmp_path / "x.dcm").min() == -1024


def test_a_limit_is_a_limit(tmp_path):
    np.save(tmp_path / "x.npy", STACK)
    with pytest.raises(ValueError, match=r"x\.npy: its array .* the limit is"):
        io.read(tmp_path / "x.npy", max_bytes=500)
    assert io.read(tmp_path / "x.npy", max_bytes=500, select={"slice": 1}).values.shape == (1, 6, 10)


def test_what_is_meant_must_be_plain(tmp_path):
    np.savez(tmp_path / "x.npz", a=GREY, b=GREY)
    with pytest.raises(ValueError, match="name one of its arrays by `dataset`; it holds a, b"):
        io.read(tmp_path / "x.npz")
    np.testing.assert_array_equal(io.read(tmp_path / "x.npz", dataset="b").values, GREY)
    with pytest.raises(ValueError, match="no array of numbers 'c'"):
        io.read(tmp_path / "x.npz", dataset="c")
    for name in ("x.txt", "none.tif"):
        (tmp_path / "x.txt").write_text("1 2 3")
        with pytest.raises(ValueError, match=name):
            io.read(tmp_path / name)
    with pytest.raises(ValueError, match="should hold slices or pictures"):
        io.read(tmp_path)


def test_a_data_set_in_another_file_is_not_opened(tmp_path):
    (tmp_path / "secret").write_bytes(bytes(480))
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("a", (6, 10), "f8", external=[(os.fspath(tmp_path / "secret"), 0, 480)])
    with h5py.File(tmp_path / "y.h5", "w") as file:
        file["a"] = h5py.ExternalLink("x.h5", "a")
    for name, message in (("x.h5", "lies in other files"), ("y.h5", "name one of its arrays")):
        with pytest.raises(ValueError, match=message):
            io.read(tmp_path / name)


def test_a_missing_library_is_named(tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "x.tif", GREY)
    monkeypatch.setitem(__import__("sys").modules, "tifffile", None)
    with pytest.raises(ValueError, match=r"needs tifffile.*jaxinv\[files\]"):
        io.read(tmp_path / "x.tif")
