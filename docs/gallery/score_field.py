# %% [markdown]
# # A score, and where it leads
#
# The score of a mixture of three, exactly, at three times: much noise and one direction, little noise and three basins.
# On the right is where it leads: the probability flow takes noise to the mixture along smooth lines, the reverse SDE
# along rough ones, with the same law at every time.

# %%
import jax
import jax.numpy as jnp
import matplotlib.figure

from jaxinv import diffusion, oracles, plotting

prior = oracles.GaussianMixture(jnp.full(3, 1 / 3), jnp.array([[1.5, 1.0], [-1.5, 1.0], [0.0, -1.5]]), 0.05)
process = diffusion.VP()
score = prior.score(process)
line = jnp.linspace(-2.5, 2.5, 17)
grid = jnp.stack(jnp.meshgrid(line, line), -1).reshape(-1, 2)
fine = jnp.linspace(-2.5, 2.5, 100)
plane = jnp.stack(jnp.meshgrid(fine, fine), -1).reshape(-1, 2)

figure = matplotlib.figure.Figure(figsize=(11, 2.6), layout="constrained")
places = figure.subplots(1, 5, sharex=True, sharey=True)
for place, t in zip(places, (0.6, 0.25, 0.05), strict=False):
    arrows = jax.vmap(lambda x, t=t: score(jnp.asarray(t), x))(grid)
    density = jax.vmap(prior.noised(process, jnp.asarray(t)).log_prob)(plane)
    place.imshow(jnp.exp(density).reshape(100, 100), extent=(-2.5, 2.5) * 2, origin="lower", cmap="Blues")
    arrows = arrows / jnp.sqrt(1 + jnp.sum(arrows**2, -1, keepdims=True))
    place.quiver(*grid.T, *arrows.T, scale=24, width=0.006)
    place.set_title(f"t = {t}")

# %%
methods = {"probability flow": diffusion.ProbabilityFlow(), "reverse SDE": diffusion.ReverseSDE(200)}
for place, (name, method) in zip(places[3:], methods.items(), strict=True):
    solution = diffusion.sample(score, (2,), key=jax.random.key(0), num_samples=300, method=method).check()
    place.plot(*solution.value.T, ".", markersize=2)
    place.set_title(f"{name}, {solution.stats['num_steps'].max()} steps", fontsize=10)
for place in places:
    place.set(xticks=[-2, 0, 2], yticks=[-2, 0, 2], aspect="equal")
plotting.show(figure, "score_field.png")
