"""What the tests of both trainings share: a meter that stops a run, and whether two runs are the same."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np


class Meter(diffrax.AbstractProgressMeter):
    """Records what it is told, and stops the run after so many chunks by raising."""

    ticks: list = eqx.field(static=True)
    most: float = eqx.field(static=True, default=np.inf)

    def init(self):
        return jnp.zeros(())

    def step(self, state, progress):
        self.ticks.append(float(progress))
        if len(self.ticks) >= self.most:
            raise KeyboardInterrupt
        return state

    def close(self, state):
        self.ticks.append("closed")


def same(a, b):
    return all(jnp.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
