"""Why positions in the projectors are made of stored or rounded numbers: a fault of theirs without this library.

    python benchmarks/two_roundings.py

Pixels look up the two entries of a table next to their position, and weigh them by the distance. One integer decides
which entries and which weights. Beside a loop that does the same, XLA:CPU computes that integer in two kernels: one for
the addresses, and one more time in the kernel of the weights. LLVM makes a multiplication and an addition of
`x cos + y sin` in the first, one fused operation in the second. Where the position is an integer but for rounding, the
two integers differ, and the weight 1 falls on the neighbour of the entry that it belongs to. Both ways of rounding are
allowed, so this is not a fault of the compiler. `rounded` in `jaxinv/_kernels/_beams.py` leaves only one way.

It prints the largest error of a value whose size is of order 1, as it is and with `rounded`: 2.5 and 2e-6 with jax
0.10.2 and 0.12.0.
"""

import jax
import jax.numpy as jnp
import numpy as np

SIZE, BATCH = 16, 8


def look_up(table, x, angle, rounded):
    """What each of the pixels at `x`, `-x` sees of `table`, `(2 SIZE, BATCH)`, from an angle."""
    place = rounded(x[None, :] * jnp.cos(angle)) + rounded(x[::-1][:, None] * jnp.sin(angle))
    first = jnp.ceil(place - 1).astype(int)
    total = 0.0
    for tap in range(2):
        weight = jnp.maximum(0, 1 - jnp.abs((first + tap).astype(float) - place))
        total += weight[..., None] * table.at[first + tap + SIZE].get(mode="promise_in_bounds")
    return total


def program(rounded):
    @jax.jit
    def look_up_and_loop(table, x, angle):
        seen = look_up(table, x, angle, rounded)
        again = lambda i, seen: look_up(0.01 * jnp.concatenate([seen[0], seen[1]]), x, angle, rounded)
        return seen, jax.lax.fori_loop(0, 2, again, seen)

    return look_up_and_loop


def main():
    x, angle = jnp.arange(SIZE) - (SIZE - 1) / 2, jnp.pi / 4
    table = jax.random.normal(jax.random.key(0), (2 * SIZE, BATCH))
    across, down = np.asarray(x, float), np.asarray(x, float)[::-1, None]
    place = across * np.cos(np.pi / 4) + down * np.sin(np.pi / 4)
    exact = np.maximum(0, 1 - np.abs(np.arange(2 * SIZE) - SIZE - place[..., None])) @ np.asarray(table, float)
    ways = {"as it is": lambda product: product, "rounded": lambda product: jnp.minimum(product, 1e38)}
    for name, rounded in ways.items():
        error = np.abs(np.asarray(program(rounded)(table, x, angle)[0]) - exact).max()
        print(f"{name:>8}: largest error {error:.1e}")


if __name__ == "__main__":
    main()
