"""The command line, as a user types it."""

import json

import diffrax
import numpy as np
import pytest
import safetensors.numpy

from jaxinv import cli
from jaxinv._commands._images import load


def test_help_is_complete(capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(["demo", "--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    for option in ("--data", "--quick", "--images", "--seed", "--output", "mnist"):
        assert option in text


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["demo", "--data", "cifar"], "'digits', 'mnist'"),
        (["demo", "--images", "0"], "not a positive integer"),
        (["demo", "--images", "many"], "not a positive integer"),
        (["demo", "--quik"], "unrecognized arguments: --quik"),
        (["train", "score", "--process", "ddpm"], "'vp', 'subvp', 've', 'flow'"),
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


@pytest.mark.slow
def test_demo(tmp_path, capsys):
    assert cli.main(["demo", "--quick", "--images", "2", "--output", str(tmp_path / "demo")]) == 0
    results = json.loads((tmp_path / "demo" / "results.json").read_text())
    rows, samples = results["rows"], {row["method"]: row for row in results["samples"]}
    quality = {(row["task"], row["method"]): row["psnr_clipped"] for row in rows}
    # The learned priors beat the ones that know nothing of digits, by far more than the seed moves them.
    for task, classical in (("deblurring", "Tikhonov"), ("tomography", "FBP")):
        for learned in ("Gaussian", "VAE", "score, mean"):
            assert quality[task, learned] > quality[task, classical] + 2
    # 64 held-out images are at .04, grey noise at .3.
    assert all(row["sliced_wasserstein"] < 0.15 for row in samples.values())
    assert samples.keys() == {"Gaussian, exact score", "VAE", "score network", "held-out images"}
    for name in ("deblurring.png", "tomography.png", "samples.png"):
        assert (tmp_path / "demo" / name).read_bytes().startswith(b"\x89PNG")
    assert "problems/s" in capsys.readouterr().out


@pytest.mark.slow
def test_train_and_reconstruct(tmp_path, capsys):
    network, output = tmp_path / "prior.safetensors", tmp_path / "out"
    train = ["train", "autoencoder", "--latents", "6", "--steps", "600", "--output", str(network)]
    assert cli.main(train) == 0
    assert "encode and decode" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["prior.safetensors"]
    for task in ("deblurring", "tomography", "compressed-sensing", "inpainting"):
        again = [
            "reconstruct",
            str(network),
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
        # An image of the mean digit has about 12 dB.
        assert row["failed"] == 0
        assert row["rows"]["autoencoder"]["psnr_clipped"] > 13
        assert np.load(output / f"{task}.npy").shape == (3, 28, 28, 1)
        assert (output / f"{task}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "said"), [("gan", "nearest images of its range"), ("flow", "bits per dimension")])
def test_train_the_others(kind, said, tmp_path, capsys):
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 256, (320, 8, 8, 1), np.uint8))
    chosen = ["--data", str(tmp_path / "images.npy")]
    network = tmp_path / "prior.safetensors"
    train = ["train", kind, *chosen, "--latents", "3", "--steps", "20", "--batch", "16", "--output", str(network)]
    assert cli.main(train) == 0
    assert said in capsys.readouterr().out
    output = tmp_path / "out"
    again = ["reconstruct", str(network), *chosen, "--images", "2", "--restarts", "1", "--output", str(output)]
    assert cli.main(again) == 0
    assert kind in json.loads((output / "results.json").read_text())["rows"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("process", "network"), [("vp", "mixer"), ("ve", "mixer"), ("flow", "mixer"), ("subvp", "unet")]
)
def test_train_a_score_and_sample(process, network, tmp_path, capsys):
    # Images of two grey levels, one half white: what four hundred steps of a small network must find.
    halves = np.zeros((320, 8, 8, 1), np.uint8)
    halves[::2, :4] = halves[1::2, :, 4:] = 255
    np.save(tmp_path / "images.npy", halves)
    file, picture = tmp_path / "score.safetensors", tmp_path / "samples.png"
    train = ["train", "score", "--data", str(tmp_path / "images.npy"), "--process", process, "--network", network]
    steps = "400" if network == "mixer" else "3"
    assert cli.main([*train, "--steps", steps, "--batch", "16", "--output", str(file)]) == 0
    assert f"jaxinv sample {file}" in capsys.readouterr().out
    assert cli.main(["sample", str(file), "--images", "12", "--steps", "20", "--output", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    samples = np.load(tmp_path / "samples.npy")
    assert samples.shape == (12, 8, 8, 1)
    if network == "mixer":
        kinds = halves[:2] / 255
        errors = np.abs(samples[:, None] - kinds[None]).mean((2, 3, 4))
        # Grey and noise are at .5 from either, or further; these are within .18, and .31 after two hundred steps.
        assert np.median(errors.min(1)) < 0.3
        assert set(errors.argmin(1)) == {0, 1}
    output = tmp_path / "out"
    again = ["reconstruct", str(file), "--data", str(tmp_path / "images.npy"), "--task", "inpainting"]
    again += ["--images", "2", "--samples", "3", "--output", str(output)]
    assert cli.main([*again, "--prior", "vae"]) == 1
    assert "kind score" in capsys.readouterr().err
    assert cli.main([*again, "--prior", "score"]) == 0
    result = json.loads((output / "results.json").read_text())
    assert result["failed"] == 0
    assert 0 <= result["coverage"] <= 1
    assert np.load(output / "inpainting.npy").shape == (2, 3, 8, 8, 1)
    assert (output / "inpainting_samples.png").read_bytes().startswith(b"\x89PNG")
    if network == "mixer":
        # A quarter of the pixels tells which half is white.
        assert result["rows"]["score, mean"]["psnr_clipped"] > 10


@pytest.mark.slow
def test_interrupted_training_goes_on(tmp_path, capsys, monkeypatch):
    train = ["train", "vae", "--latents", "2", "--steps", "60", "--output", str(tmp_path / "a.safetensors")]
    assert cli.main(train) == 0
    ticks = []

    def interrupt(meter, state, progress):
        ticks.append(float(progress))
        if float(progress) > 0.5:
            raise KeyboardInterrupt
        return state

    other = [*train[:-1], str(tmp_path / "b.safetensors")]
    with monkeypatch.context() as patched:
        patched.setattr(diffrax.TqdmProgressMeter, "step", interrupt)
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
        (["reconstruct", "missing.safetensors"], "There is no file"),
        (["reconstruct", "any.safetensors", "--noise", "0"], "--noise must be positive"),
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
