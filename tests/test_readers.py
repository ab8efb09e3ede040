"""Every reader, with files that nobody meant to write: each is refused by name, before memory is taken for it."""

import gzip
import json
import struct
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest
import scipy.io
from PIL import Image

from jaxinv import cli, data, io
from jaxinv._commands import _images, _networks, _score
from jaxinv.data import _mnist
from jaxinv.training._checkpoint import Checkpoint, Run

h5py = pytest.importorskip("h5py")
nibabel = pytest.importorskip("nibabel")
tifffile = pytest.importorskip("tifffile")


def npy(header, content=b""):
    header = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


def saved(values, path):
    np.save(path, values)
    return path.read_bytes()


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width, height, content=b""):
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(content)) + chunk(b"IEND", b"")


def deep_png(width, height):
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    packed = zlib.compress((b"\0" + bytes(6 * width)) * height)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def mat(content):
    packed = zlib.compress(content, 9)
    return b"MATLAB 5.0".ljust(124) + struct.pack("<H2s", 0x0100, b"IM") + struct.pack("<2I", 15, len(packed)) + packed


def h5(path, **sets):
    with h5py.File(path, "w") as file:
        for name, (shape, dtype) in sets.items():
            file.create_dataset(f"exchange/{name}", shape, dtype, chunks=True)
    return path.read_bytes()


def safetensors_of(header, content=b""):
    header = header.encode()
    return struct.pack("<Q", len(header)) + header + content


def described(**description):
    entry = {"__metadata__": {_networks.METADATA: json.dumps(description), "jaxinv.kinds": "{}"}}
    return safetensors_of(json.dumps(entry))


HUGE = "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000, 3)}"
ARRAYS = {
    "oversized": lambda path: npy(HUGE),
    "nested": lambda path: npy("{'descr': '<f8', 'fortran_order': False, 'shape': " + "(" * 4000 + ")" * 4000 + "}"),
    "objects": lambda path: npy("{'descr': '|O', 'fortran_order': False, 'shape': (3, 3)}", b"x" * 72),
    "text": lambda path: saved(np.full((8, 8), "a"), path),
    "archive": lambda path: (
        np.savez(path.with_suffix(".npz"), x=np.ones((8, 8))),
        path.with_suffix(".npz").read_bytes(),
    )[1],
    "empty array": lambda path: saved(np.ones((0, 8)), path),
}
NETWORKS = {
    "oversized header": lambda path: struct.pack("<Q", 2**60) + b"{}",
    "oversized tensor": lambda path: safetensors_of(
        '{"a": {"dtype": "F32", "shape": [1000000000], "data_offsets": [0, 4000000000]}}'
    ),
    "nested": lambda path: safetensors_of("[" * 100_000),
    "nested metadata": lambda path: safetensors_of(
        json.dumps({"__metadata__": {_networks.METADATA: "[" * 100_000, "jaxinv.kinds": "{}"}})
    ),
    "latents of a gigabyte": lambda path: described(kind="vae", image_shape=[8, 8, 1], latents=10**9, kept=[0]),
    "images of a terabyte": lambda path: described(kind="flow", image_shape=[10**6, 10**6, 1], latents=1, kept=[0]),
    "kept of a terabyte": lambda path: described(
        kind="autoencoder", image_shape=[8, 8, 1], latents=2, kept=[10**6, 10**6]
    ),
    "no description": lambda path: described(kind="vae"),
    "a list for a kind": lambda path: described(kind=["vae"]),
    "a score of text": lambda path: described(kind="score", process=["vp"], network={}, moments=3),
    "moments of a terabyte": lambda path: described(
        kind="score", process="vp", network="mixer", image_shape=[8, 8, 1], moments={"basis": [10**6, 10**6]}
    ),
}
WHOLE = np.linspace(0, 1, 64).reshape(8, 8)


def picture_bytes(path):
    Image.fromarray(np.uint8(255 * WHOLE)).save(path, format="PNG")
    return path.read_bytes()


def network_bytes(path):
    io.save(path, {"a": np.ones(20, np.float32)})
    return path.read_bytes()


def mat_bytes(path):
    scipy.io.savemat(path, {"CtDataFull": {"sinogram": WHOLE}}, do_compression=True)
    return path.read_bytes()


def load_network(path):
    return _score.load(path) if _score.is_score(path) else _networks.load(path)


def tiff(path, shape=(40, 30), values=None):
    """A TIFF, whose header then speaks of another shape."""
    tifffile.imwrite(path, np.ones((40, 30), np.float32) if values is None else values, metadata=None)
    with tifffile.TiffFile(path, mode="r+") as file:
        for name, size in zip(("ImageLength", "ImageWidth", "RowsPerStrip"), (*shape, shape[0]), strict=True):
            file.pages[0].tags[name].overwrite(size, dtype="I")
    return path.read_bytes()


def nifti(path, shape=(4, 5), packed=False):
    raw = bytearray(nibabel.Nifti1Image(np.ones((4, 5), np.float32), np.eye(4)).to_bytes())
    raw[42:46] = struct.pack("<2h", *shape)
    return gzip.compress(bytes(raw)) if packed else bytes(raw)


def dicom(path, **sizes):
    from test_formats import dicom

    dicom(path, np.ones((40, 30), np.uint16), **sizes)
    return path.read_bytes()


def npz_of(path, member):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", member)
    return path.read_bytes()


def zarr_of():
    """A reader of one file as the metadata of an array."""

    def read(path):
        folder = path.with_suffix(".zarr")
        folder.mkdir()
        path.rename(folder / ".zarray")
        (folder / "0.0").write_bytes(bytes(512))
        return io.read(folder)

    return read


def zarray(**changed):
    described = {"zarr_format": 2, "shape": [8, 8], "chunks": [8, 8], "dtype": "<f8", "compressor": None}
    described |= {"fill_value": None, "order": "C", "filters": None, "dimension_separator": "."}
    return json.dumps(described | changed).encode()


TOOTH = {name: ((n, 2, 8), "f4") for name, n in (("data", 4), ("data_white", 1), ("data_dark", 1))}
TOOTH["theta"] = ((4,), "f4")
# The name of a file, its reader, a whole file to be cut, and hostile ones.
READERS = {
    "picture of npy": ("x.npy", data.picture, lambda path: saved(WHOLE, path), ARRAYS),
    "images of npy": ("x.npy", _images._of_file, lambda path: saved(np.ones((2, 8, 8)), path), ARRAYS),
    "picture of png": (
        "x.png",
        data.picture,
        picture_bytes,
        {
            "oversized": lambda path: png(10**6, 10**6),
            "large": lambda path: png(9000, 9000),
            "no picture": lambda path: b"GIF89a" + bytes(40),
        },
    ),
    "htc2022": (
        "x.mat",
        data.htc2022,
        mat_bytes,
        {
            "bomb": lambda path: mat(bytes(2**26)),
            "nested": lambda path: mat(struct.pack("<2I", 14, 2**31 - 1) * 1000),
            "of another variable": lambda path: (scipy.io.savemat(path, {"x": WHOLE}), path.read_bytes())[1],
        },
    ),
    "tooth": (
        "x.h5",
        data.tooth,
        lambda path: h5(path, **TOOTH),
        {
            "oversized": lambda path: h5(path, **TOOTH | {"data": ((4, 10**6, 10**6), "f4")}),
            "of text": lambda path: h5(path, **TOOTH | {"theta": ((4,), "S3")}),
            "without theta": lambda path: h5(path, **{k: v for k, v in TOOTH.items() if k != "theta"}),
            "empty sets": lambda path: h5(path, **TOOTH | {"data": ((0, 2, 8), "f4"), "theta": ((0,), "f4")}),
        },
    ),
    "mnist": (
        "x.gz",
        lambda path: _mnist.read_idx(path, 3, "0" * 64),
        lambda path: gzip.compress(bytes([0, 0, 8, 3]) + struct.pack(">3I", 1, 8, 8) + bytes(64)),
        {
            "bomb": lambda path: gzip.compress(bytes(2**26), 9),
            "oversized": lambda path: bytes([0, 0, 8, 3]) + struct.pack(">3I", 2**31, 2**31, 2**31),
        },
    ),
    "npy": ("x.npy", io.read, lambda path: saved(WHOLE, path), ARRAYS),
    "npz": (
        "x.npz",
        io.read,
        lambda path: npz_of(path, saved(WHOLE, path.with_suffix(".npy"))),
        {
            "bomb": lambda path: npz_of(path, npy(HUGE, bytes(2**20))),
            "objects": lambda path: npz_of(path, ARRAYS["objects"](path)),
            "text": lambda path: npz_of(path, ARRAYS["text"](path.with_suffix(".npy"))),
            "nested": lambda path: npz_of(path, ARRAYS["nested"](path)),
        },
    ),
    "tiff": (
        "x.tif",
        io.read,
        tiff,
        {
            "oversized": lambda path: tiff(path, (10**6, 10**6)),
            "no values": lambda path: tiff(path, (0, 30)),
        },
    ),
    "dicom": (
        "x.dcm",
        io.read,
        dicom,
        {
            "oversized": lambda path: dicom(path, Rows=65535, Columns=65535, NumberOfFrames="1000000"),
            "without a preamble": lambda path: dicom(path)[132:],
        },
    ),
    "nifti": ("x.nii", io.read, nifti, {"oversized": lambda path: nifti(path, (30000, 30000))}),
    "nifti, packed": (
        "x.nii.gz",
        io.read,
        lambda path: nifti(path, packed=True),
        {
            "oversized": lambda path: nifti(path, (30000, 30000), True),
            "bomb": lambda path: gzip.compress(bytes(2**26), 9),
        },
    ),
    "hdf5": (
        "x.h5",
        io.read,
        lambda path: h5(path, **TOOTH),
        {
            "oversized": lambda path: h5(path, **TOOTH | {"data": ((4, 10**6, 10**6), "f4")}),
            "oversized white": lambda path: h5(path, **TOOTH | {"data_white": ((10**12, 2, 8), "f4")}),
            "of text": lambda path: h5(path, **TOOTH | {"data": ((4, 2, 8), "S3")}),
        },
    ),
    "matlab": (
        "x.mat",
        io.read,
        lambda path: (scipy.io.savemat(path, {"x": WHOLE}), path.read_bytes())[1],
        {
            "bomb": lambda path: mat(bytes(2**26)),
            "nested": lambda path: mat(struct.pack("<2I", 14, 2**31 - 1) * 1000),
            "structure": mat_bytes,
        },
    ),
    "zarr": (
        "x.json",
        zarr_of(),
        lambda path: zarray(),
        {
            "oversized": lambda path: zarray(shape=[10**6, 10**6]),
            "oversized chunks": lambda path: zarray(chunks=[10**6, 10**6], shape=[10**6, 10**6]),
            "objects": lambda path: zarray(dtype="|O", filters=[{"id": "pickle"}]),
            "nested": lambda path: b"[" * 100_000,
        },
    ),
    "png or jpeg": (
        "x.png",
        io.read,
        picture_bytes,
        {
            "oversized": lambda path: png(10**6, 10**6),
            "large": lambda path: png(9000, 9000),
            "no picture": lambda path: b"GIF89a" + bytes(40),
        },
    ),
    "network": ("x.safetensors", load_network, network_bytes, NETWORKS),
    "tree": ("x.safetensors", lambda path: io.load(path, {"a": np.ones(20, np.float32)}), network_bytes, NETWORKS),
    "metadata": (
        "x.safetensors",
        io.read_metadata,
        network_bytes,
        {k: NETWORKS[k] for k in ("oversized header", "nested")},
    ),
}
ROWS = [(reader, fault) for reader, row in READERS.items() for fault in ("empty", "cut", "wrong", *row[3])]


@pytest.mark.parametrize(("reader", "fault"), ROWS)
def test_a_bad_file_is_named_before_memory_is_taken(reader, fault, tmp_path):
    name, read, whole, hostile = READERS[reader]
    path = tmp_path / name
    makers = {
        "empty": lambda path: b"",
        "cut": lambda path: (lambda raw: raw[: 2 * len(raw) // 3])(whole(path)),
        "wrong": lambda path: b"<!DOCTYPE html><html>404</html>" * 20,
    }
    path.write_bytes((makers | hostile)[fault](path))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=name.replace(".json", ".zarr").replace(".", r"\.")):
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 1.5e8
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("fault", NETWORKS)
@pytest.mark.parametrize("command", ["sample", "evaluate"])
def test_a_command_ends_with_one_line(command, fault, tmp_path, capsys):
    path = tmp_path / "x.safetensors"
    path.write_bytes(NETWORKS[fault](path))
    output = {"sample": "x.png", "evaluate": "folder"}[command]
    assert cli.main([command, str(path), "--output", str(tmp_path / output)]) == 1
    assert "x.safetensors" in capsys.readouterr().err


@pytest.mark.parametrize(
    "progress",
    [
        {"steps": 10**12, "evaluations": 0, "best": False, "loss_dtype": "float32"},
        {"steps": 1, "evaluations": -1, "best": False, "loss_dtype": "float32"},
        {"steps": 1, "evaluations": 1, "best": False, "loss_dtype": "object"},
        {},
        [],
        "nested",
    ],
    ids=str,
)
def test_a_hostile_checkpoint_is_named_before_memory_is_taken(progress, tmp_path):
    text = "[" * 100_000 if progress == "nested" else json.dumps(progress)
    io.save(tmp_path / "run.checkpoint", {}, metadata={"settings": "{}", "progress": text})
    with pytest.raises(ValueError, match=r"run\.checkpoint is corrupt"):
        Checkpoint(tmp_path / "run.checkpoint", {}, {}).restore(Run.__new__(Run))
