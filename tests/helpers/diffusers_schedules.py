"""How far the processes of `diffusion.from_diffusers` are from what the schedules of `diffusers` say."""

import json
import tempfile
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from jaxinv import diffusion


def score(config, network):
    """The score of a configuration, with a function in place of the network of the folder."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "scheduler_config.json").write_text(json.dumps(config))
        with mock.patch("jaxinv.diffusion._scores._diffusers.from_torch", return_value=network):
            return diffusion.from_diffusers(folder)


def relative(ours, theirs):
    return float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())


def differences(name, found):
    """The largest relative differences of one schedule, by quantity."""
    config = json.loads(str(found["cases"]))[name]
    theirs = {key.split("/")[1]: value for key, value in found.items() if key.startswith(f"{name}/")}
    count = config.get("num_train_timesteps", 1000)
    x, output, noise = (jnp.asarray(found[key]) for key in ("x", "output", "noise"))
    calls = []

    def network(x, t):
        calls.append((x[0], count * t[0] - 1))
        return output[None]

    fixed = score(config, network)
    process = fixed.process
    steps = found["steps"]
    discrete = "scale" in theirs
    times = jnp.asarray((steps + 1) / count if discrete else theirs["std"].astype(float))
    scale, std = jax.vmap(process.marginal)(times)
    errors = {"std": relative(std, theirs["std"])}
    if discrete:
        errors["scale"] = relative(scale, theirs["scale"])
    if "noisy" in theirs:
        noisy = jax.vmap(lambda a, s: a * x + s * noise)(scale, std)
        errors["noisy"] = relative(noisy, theirs["noisy"])
    # At the last time of flow matching, where the image is gone, there is a marginal but no score.
    inner = [i for i, t in enumerate(times) if process.t_min <= t <= process.t_max]
    images = [fixed.predict(times[i], x)[0] for i in inner]
    ours = {
        "input": jnp.stack([image for image, _ in calls]),
        "step": jnp.stack([step for _, step in calls]),
        "image": jnp.stack(images),
    }
    errors |= {what: relative(ours[what], theirs[what][inner]) for what in ours if what in theirs}
    if "next" in theirs:
        start, end = theirs["ends"].astype(float)
        image, noise = fixed.predict(start, x)
        # Along the straight path a step of Euler is a step of DDIM.
        errors["next"] = relative((1 - end) * image + end * noise, theirs["next"])
    return errors
