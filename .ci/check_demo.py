"""What `jaxinv demo --quick --output FOLDER` must have written: `python .ci/check_demo.py FOLDER`."""

import json
import sys
from pathlib import Path

folder = Path(sys.argv[1])
results = json.loads((folder / "results.json").read_text())
quality = {(row["task"], row["method"]): row["psnr_clipped"] for row in results["rows"]}
# The learned priors beat the ones that know nothing of digits, by far more than the seed moves them.
for task, classical in (("deblurring", "Tikhonov"), ("tomography", "FBP")):
    for learned in ("Gaussian", "VAE", "score, mean"):
        assert quality[task, learned] > quality[task, classical] + 2, (task, learned, quality)
# 64 held-out images are at .04, grey noise at .3.
samples = {row["method"]: row["sliced_wasserstein"] for row in results["samples"]}
assert samples.keys() == {"Gaussian, exact score", "VAE", "score network", "held-out images"}, samples
assert all(distance < 0.15 for distance in samples.values()), samples
for name in ("deblurring.png", "tomography.png", "samples.png"):
    assert (folder / name).read_bytes().startswith(b"\x89PNG"), name
