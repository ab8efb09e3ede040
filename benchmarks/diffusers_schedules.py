"""Are the schedules of Hugging Face's `diffusers` our processes, value for value?

    python benchmarks/diffusers_schedules.py --peers DIR [--references]

Every schedule is read from its configuration, as `diffusion.from_diffusers` reads it, with a network that returns what
it is given or a fixed output. `error` is the largest relative difference, in double precision where theirs is, of scale
and deviation at eight steps, of noised images, of what the network is called with, of the denoised image, and of a step
of Euler. `--references` writes the small file that the test suite reads.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from harness import Recorder, peer_seconds

CASES = {
    "DDPM linear": {"_class_name": "DDPMScheduler", "beta_schedule": "linear"},
    "DDPM scaled linear": {"_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear", "beta_end": 0.012},
    "DDPM cosine": {"_class_name": "DDPMScheduler", "beta_schedule": "squaredcos_cap_v2"},
    "DDPM sigmoid": {"_class_name": "DDPMScheduler", "beta_schedule": "sigmoid", "num_train_timesteps": 500},
    "EDM": {"_class_name": "EDMEulerScheduler", "prediction_type": "epsilon"},
    "EDM, velocity": {"_class_name": "EDMDPMSolverMultistepScheduler", "prediction_type": "v_prediction"},
    "flow matching": {"_class_name": "FlowMatchEulerDiscreteScheduler"},
    "flow matching, shift 3": {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0},
}
STEPS = np.array([0, 1, 17, 100, 250, 400, 498, 499])
TESTS = Path(__file__).parents[1] / "tests"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, required=True, help="the folder of the peers' environments")
    parser.add_argument("--references", action="store_true", help="write tests/diffusion/schedule_references.npz")
    options = parser.parse_args()
    sys.path[:0] = [str(TESTS / "helpers")]
    import jax

    jax.config.update("jax_enable_x64", True)
    from diffusers_schedules import differences

    rng = np.random.default_rng(0)
    given = {name: rng.normal(size=(2, 2, 1)) for name in ("x", "output", "noise")}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "found.npz"
        inputs = given | {"cases": json.dumps(CASES), "steps": STEPS, "output_file": str(file)}
        peer = peer_seconds("diffusers_schedules", options.peers / "torch" / "bin" / "python", inputs)
        if "skipped" in peer:
            sys.exit(peer["skipped"])
        with np.load(file) as found:
            found = given | {"cases": np.array(json.dumps(CASES)), "steps": STEPS} | dict(found)
    recorder = Recorder("diffusers_schedules")
    for name in CASES:
        recorder.add(schedule=name, **differences(name, found), diffusers=peer["versions"]["diffusers"])
    recorder.write()
    if options.references:
        np.savez_compressed(TESTS / "diffusion" / "schedule_references.npz", **found)


if __name__ == "__main__":
    main()
