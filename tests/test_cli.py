"""The command line, as a user types it."""

import json

import pytest

from jaxinv import cli


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


def test_demo(tmp_path, capsys):
    assert cli.main(["demo", "--quick", "--images", "2", "--output", str(tmp_path / "demo")]) == 0
    rows = json.loads((tmp_path / "demo" / "results.json").read_text())["rows"]
    quality = {(row["task"], row["method"]): row["psnr_clipped"] for row in rows}
    # The learned priors beat the ones that know nothing of digits, by far more than the seed moves them.
    for task, classical in (("deblurring", "Tikhonov"), ("tomography", "FBP")):
        for learned in ("Gaussian", "VAE"):
            assert quality[task, learned] > quality[task, classical] + 2
    for name in ("deblurring.png", "tomography.png"):
        assert (tmp_path / "demo" / name).read_bytes().startswith(b"\x89PNG")
    assert "problems/s" in capsys.readouterr().out
