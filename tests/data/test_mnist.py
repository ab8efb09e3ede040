import gzip
import hashlib
import struct

import numpy as np
import pytest

from jaxinv import data
from jaxinv.data import _files, _mnist

NAMES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


IMAGES = (np.arange(5 * 28 * 28) % 251).astype(np.uint8).reshape(5, 28, 28)
LABELS = np.array([3, 1, 4, 1, 9], np.uint8)
PACKED = {NAMES["test"][0]: gzip.compress(idx(IMAGES)), NAMES["test"][1]: gzip.compress(idx(LABELS))}


@pytest.fixture(autouse=True)
def checksums(monkeypatch):
    """Those of the small files here in place of those of MNIST."""
    for name, raw in PACKED.items():
        monkeypatch.setitem(_mnist._SHA256, name, hashlib.sha256(raw).hexdigest())
        monkeypatch.setitem(_mnist._CONTENTS, name, hashlib.sha256(gzip.decompress(raw)).hexdigest())


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """No data file anywhere, and no network."""
    monkeypatch.delenv("JAXINV_DATA", raising=False)
    monkeypatch.setattr(_files, "shared_folder", lambda: tmp_path / "shared" / "data")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pooch = pytest.importorskip("pooch")

    def offline(self, url, output_file, pooch, check_only=False):
        raise OSError("no network")

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", offline)
    return tmp_path


def write(folder, files=PACKED):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


@pytest.mark.parametrize(("split", "n", "mean"), [("train", 60_000, 0.1307), ("test", 10_000, 0.1325)])
def test_real_files(split, n, mean, monkeypatch):
    monkeypatch.undo()
    for name in NAMES[split]:
        if not any((f / "mnist" / name).is_file() or (f / name).is_file() for f in _files.folders()):
            pytest.skip(f"{name} is in none of {_files.folders()}")
    images, labels = data.mnist(split)
    assert images.shape == (n, 28, 28, 1)
    assert images.dtype == np.uint8
    assert labels.shape == (n,)
    # the well-known mean of MNIST, to its four published digits
    assert abs(images.mean() / 255 - mean) < 5e-5
    assert sorted(set(labels.tolist())) == list(range(10))


@pytest.mark.parametrize("place", ["JAXINV_DATA/mnist", "JAXINV_DATA", "shared/data/mnist", "cache/jaxinv/mnist"])
@pytest.mark.parametrize("packed", [True, False])
def test_places(nowhere, monkeypatch, place, packed):
    monkeypatch.setenv("JAXINV_DATA", str(nowhere / "JAXINV_DATA"))
    files = PACKED if packed else {name.removesuffix(".gz"): gzip.decompress(raw) for name, raw in PACKED.items()}
    write(nowhere / place, files)
    images, labels = data.mnist("test")
    np.testing.assert_array_equal(images, IMAGES[..., None])
    np.testing.assert_array_equal(labels, LABELS)


def test_order_of_places(nowhere, monkeypatch):
    monkeypatch.setenv("JAXINV_DATA", str(nowhere / "mine"))
    find = lambda: _files.fetch(NAMES["test"][1], folder="mnist", mirrors=(), sha256="")
    for folder in ("mine/mnist", "shared/data/mnist", "cache/jaxinv/mnist"):
        write(nowhere / folder)
    assert find().parent == nowhere / "mine/mnist"
    monkeypatch.delenv("JAXINV_DATA")
    assert find().parent == nowhere / "shared/data/mnist"
    monkeypatch.setattr(_files, "shared_folder", lambda: nowhere / "none")
    assert find().parent == nowhere / "cache/jaxinv/mnist"


def test_shared_folder_is_beside_the_checkout():
    checkout = _files.shared_folder().parents[1] / _files.Path(__file__).parents[2].name
    assert (checkout / "jaxinv" / "data" / "_files.py").is_file()


def test_an_installed_package_looks_beside_no_checkout(nowhere, monkeypatch):
    installed = nowhere / "site-packages" / "jaxinv" / "data" / "_files.py"
    write(nowhere / "shared" / "data" / "mnist")
    monkeypatch.undo()
    monkeypatch.setattr(_files, "__file__", str(installed))
    assert _files.shared_folder() is None
    assert _files.folders()[-1] == _files.cache_folder()
    assert "checkout" not in _files._ways("x", "mnist", [])
    assert "three ways" in _files._ways("x", "mnist", [])


def test_nowhere_names_all_four_ways(nowhere):
    with pytest.raises(ValueError, match="four ways") as caught:
        data.mnist("train")
    message = str(caught.value)
    for part in (
        "JAXINV_DATA",
        "../shared/data/mnist",
        str(nowhere / "cache"),
        "pooch",
        "no network",
        *_mnist._MIRRORS,
    ):
        assert part in message
    assert NAMES["train"][0] in message
    assert not (nowhere / "cache").exists() or not any((nowhere / "cache").iterdir())


def test_split():
    with pytest.raises(ValueError, match='"train" or "test"; got \'validation\''):
        data.mnist("validation")


GOOD = {name: gzip.decompress(raw) for name, raw in PACKED.items()}
DAMAGE = {
    "truncated gzip": (0, PACKED[NAMES["test"][0]][:-20], "truncated or corrupt"),
    "flipped byte": (0, PACKED[NAMES["test"][0]][:60] + b"\x55\xaa" + PACKED[NAMES["test"][0]][62:], "corrupt"),
    "truncated array": (0, gzip.compress(GOOD[NAMES["test"][0]][:-1]), "truncated or corrupt"),
    "surplus bytes": (0, gzip.compress(GOOD[NAMES["test"][0]] + b"x"), "truncated or corrupt"),
    "only a magic number": (0, gzip.compress(GOOD[NAMES["test"][0]][:4]), "truncated or corrupt"),
    "broken header": (0, gzip.compress(GOOD[NAMES["test"][0]][:9]), "truncated or corrupt"),
    "empty": (0, b"", "not an idx file"),
    "larger than MNIST": (0, gzip.compress(bytes(_mnist._LARGEST + 1), 1), "too large"),
    "web page": (0, b"<!DOCTYPE html><html>404</html>", "not an idx file"),
    "labels as images": (0, PACKED[NAMES["test"][1]], "not an idx file"),
    "other size": (0, gzip.compress(idx(IMAGES[:, :27])), "SHA-256"),
    "too few labels": (1, gzip.compress(idx(LABELS[:4])), "SHA-256"),
    "no such digit": (1, gzip.compress(idx(LABELS + 1)), "SHA-256"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_file_is_named(nowhere, damage):
    which, content, words = DAMAGE[damage]
    write(nowhere / "shared/data/mnist", {**PACKED, NAMES["test"][which]: content})
    with pytest.raises(ValueError, match=words) as caught:
        data.mnist("test")
    assert str(nowhere / "shared/data/mnist" / NAMES["test"][which]) in str(caught.value)


def remains(nowhere):
    return [p for p in (nowhere / "cache").rglob("*")] if (nowhere / "cache").exists() else []


@pytest.mark.parametrize("error", [ConnectionError, KeyboardInterrupt, None])
def test_interrupted_download_leaves_nothing(nowhere, monkeypatch, error):
    import pooch

    written = []

    def half(self, url, output_file, pooch, check_only=False):
        _files.Path(output_file).write_bytes(PACKED[NAMES["test"][0]][:100])
        written.append(url)
        if error is not None:
            raise error("stopped")

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", half)
    with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else ValueError):
        data.mnist("test")
    # each mirror is tried before giving up, but nothing more once the user has interrupted
    assert len(written) == (1 if error is KeyboardInterrupt else len(_mnist._MIRRORS))
    assert remains(nowhere) == []


def test_second_mirror_and_cache(nowhere, monkeypatch):
    import pooch

    asked = []

    def second(self, url, output_file, pooch, check_only=False):
        asked.append(url)
        if url.startswith(_mnist._MIRRORS[0]):
            raise ConnectionError("down")
        _files.Path(output_file).write_bytes(PACKED[url.rsplit("/", 1)[1]])

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", second)
    np.testing.assert_array_equal(data.mnist("test")[0], IMAGES[..., None])
    assert len(asked) == 4
    np.testing.assert_array_equal(data.mnist("test")[1], LABELS)
    assert len(asked) == 4
    assert sorted(p.name for p in remains(nowhere) if p.is_file()) == sorted(PACKED)
