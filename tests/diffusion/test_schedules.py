"""The schedules of `diffusers` against a file of what it says, which `benchmarks/diffusers_schedules.py` writes."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from diffusers_schedules import differences

with np.load(Path(__file__).parent / "schedule_references.npz") as file:
    FOUND = dict(file)


@pytest.mark.parametrize("name", json.loads(str(FOUND["cases"])))
def test_a_schedule_of_diffusers_is_a_process(name):
    with jax.enable_x64(True):
        errors = differences(name, FOUND)
    # diffusers computes in single precision, but for the preconditioning of EDM, which the reference asks in double.
    assert max(errors.values()) < 1e-5, errors
    assert len(errors) >= 3
