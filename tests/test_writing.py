"""Everything that writes a file: whole or not at all, through links, with the mode that was there."""

import ast
import os
import stat
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxinv
from jaxinv import io, plotting
from jaxinv.training._checkpoint import RunFile


def _save(path, value):
    io.save(path, {"a": jnp.full(20, value)}, metadata={"b": "c"})


def _write_bytes(path, value):
    io.write_bytes(path, bytes([int(value)]) * 1000)


def _figure(path, value):
    plotting.save(plotting.compare({"image": np.full((4, 4, 1), value)}), path, dpi=20)


def _checkpoint(path, value):
    RunFile(path, {"key": "0"}, {}, "training.fit").write({"a": np.full(20, value)}, {})


WRITERS = [_save, _write_bytes, _figure, _checkpoint]


@pytest.fixture(params=WRITERS, ids=lambda write: write.__name__.strip("_"))
def write(request):
    if request.param is _figure:
        pytest.importorskip("matplotlib")
    return request.param


def _mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_mode_and_place_stay(write, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("the mask belongs to the whole process"))
    new, kept, folder = tmp_path / "new.png", tmp_path / "kept.png", tmp_path / "elsewhere"
    folder.mkdir()
    (tmp_path / "plain").write_bytes(b"")
    write(new, 0.0)
    assert _mode(new) == _mode(tmp_path / "plain")
    # An existing file keeps its mode, also one reached by a link, and a link stays a link: also one to nothing yet.
    kept.write_bytes(b"")
    for mode in (0o600, 0o640, 0o666):
        kept.chmod(mode)
        write(kept, 0.0)
        assert _mode(kept) == mode
        assert kept.read_bytes()
    for name, mode in {"old": 0o604, "none": _mode(new)}.items():
        link, target = tmp_path / f"{name}.png", folder / f"{name}.png"
        if name == "old":
            target.write_bytes(b"")
            target.chmod(mode)
        link.symlink_to(os.path.join("elsewhere", target.name))
        write(link, 0.0)
        assert link.is_symlink()
        assert target.read_bytes()
        assert _mode(target) == mode
    assert not list(tmp_path.rglob("*.partial"))


def test_whole_or_not_at_all(write, tmp_path, monkeypatch):
    path = tmp_path / "file.png"
    write(path, 0.0)
    before = path.read_bytes()

    def fail(error):
        def raising(*args):
            raise error

        return raising

    for name, error in [("fsync", OSError(28, "No space left on device")), ("replace", KeyboardInterrupt())]:
        with monkeypatch.context() as patched:
            patched.setattr(os, name, fail(error))
            if write is _checkpoint and isinstance(error, OSError):
                with pytest.warns(UserWarning, match="No space left"):
                    write(path, 1.0)
            else:
                with pytest.raises(type(error)):
                    write(path, 1.0)
        assert path.read_bytes() == before
        assert os.listdir(tmp_path) == ["file.png"]


def test_where_nothing_can_be_written(write, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    (tmp_path / "loop.png").symlink_to("loop.png")
    for path in ("file/a.png", "gone/a.png", ".", "loop.png", "x" * 300 + ".png"):
        with pytest.raises(ValueError, match=r"annot write|does not exist"):
            write(tmp_path / path, 0.0)
    # Permissions do not stop root.
    (tmp_path / "read-only.png").write_text("")
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: "read-only" not in str(path) and access(path, mode))
    with pytest.raises(ValueError, match="read-only. Change"):
        write(tmp_path / "read-only.png", 0.0)
    assert sorted(os.listdir(tmp_path)) == ["file", "loop.png", "read-only.png"]


def test_what_is_no_file_stays_what_it_is(write, tmp_path):
    # A pipe of our own, and not a device of the machine, which a fault here would replace for everybody.
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
    reader.start()
    write(pipe, 0.0)
    reader.join(10)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert len(read[0]) > 100
    assert os.listdir(tmp_path) == ["pipe"]


def test_two_writers_at_once(tmp_path):
    path = tmp_path / "file"
    threads = [threading.Thread(target=lambda i=i: [_write_bytes(path, i) for _ in range(20)]) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    content = path.read_bytes()
    assert len(content) == 1000
    assert len(set(content)) == 1
    assert os.listdir(tmp_path) == ["file"]


def test_every_damaged_byte_is_noticed(tmp_path):
    path = tmp_path / "file"
    tree = {"a": np.arange(3.0), "k": jax.random.key(1), "n": 2.5}
    io.save(path, tree, metadata={"b": "c"})
    whole = path.read_bytes()
    silent = []
    for i in range(len(whole)):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ (1 << i % 8)]) + whole[i + 1 :])
        try:
            found = io.load(path, tree)
            metadata = io.read_metadata(path)
        except ValueError:
            continue
        silent.append(i)
        # Such as another blank between the entries of the header.
        assert np.array_equal(found["a"], tree["a"])
        assert found["n"] == 2.5
        assert metadata == {"b": "c"}
    assert len(silent) < 8


def test_a_file_of_another_library_needs_no_checksum(tmp_path):
    numpy = pytest.importorskip("safetensors.numpy")
    numpy.save_file({"a": np.ones(2)}, tmp_path / "file", metadata={"jaxinv.kinds": '{"n": "Python int"}'})
    np.testing.assert_array_equal(io.load(tmp_path / "file", {"a": np.zeros(2)})["a"], 1)


def test_nothing_else_writes():
    """Files are opened for writing in `_writing.py` only, which all others call."""
    functions = {"os.replace", "os.rename", "os.umask", "os.chmod", "np.savez", "np.save", "shutil.move", "shutil.copy"}
    methods = {"savefig", "write_text", "save_file", "tofile", "save"}
    memory = {"drawing", "stored", "array"}  # Buffers in memory have these names, or the call is one of ours.
    ours = {"plotting.save", "io.save", "_score.save"}
    found = set()
    for path in sorted(Path(jaxinv.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if not name or name in ours:
                continue
            arguments = [ast.unparse(a) for a in [*node.args, *(k.value for k in node.keywords)]]
            opened = name in ("open", "os.open", "os.fdopen") and any(a in ("'wb'", "'w'", "flags") for a in arguments)
            writes = name in functions or name.rsplit(".", 1)[-1] in methods
            if opened or (writes and "." in name and not memory & set(arguments)):
                found.add(path.name)
    assert found == {"_writing.py"}
