"""Training on data that are read batch by batch: the same run as on arrays, also one that goes on."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from runs import Meter, same

from jaxinv.training import fit

COUNT, SIZE = 20, 8
DATA = np.random.default_rng(0).normal(size=(COUNT, 5)).astype(np.float32)


class Affine(eqx.Module):
    weight: jax.Array
    bias: jax.Array


MODEL = Affine(jnp.eye(5), jnp.zeros((1, 5)))


def loss(model, batch, *, key):
    noise = 0.1 * jax.random.normal(key, batch.shape, batch.dtype)
    return jnp.mean(((batch + noise) @ model.weight + model.bias - 0.5 * batch) ** 2)


def plain_loss(model, batch, *, key):
    del key
    return jnp.mean((batch @ model.weight + model.bias - 0.5 * batch) ** 2)


def train(data, model=MODEL, loss=loss, **options):
    options = {"key": jax.random.key(3), "num_steps": 12, "batch_size": SIZE, "chunk_size": 5, **options}
    return fit(model, loss, data, **options)


class Source:
    def __len__(self):
        return COUNT

    def __getitem__(self, i):
        return DATA[i]


class Mixed(Source):
    def __getitem__(self, i):
        return DATA[i] if i == 0 else DATA[i, :3]


class Loader:
    """An iterator with a state, as those of grain have."""

    def __init__(self):
        self.position = 0

    def __iter__(self):
        return self

    def __next__(self):
        self.position += 1
        return np.roll(DATA, self.position, axis=0)[:SIZE]

    def get_state(self):
        return {"position": self.position}

    def set_state(self, state):
        self.position = state["position"]


class Bytes(Loader):
    def get_state(self):
        return str(self.position).encode()

    def set_state(self, state):
        self.position = int(state)


def batches():
    return (np.roll(DATA, i, axis=0)[:SIZE] for i in itertools.count(1))


@pytest.fixture(scope="module")
def by_iterator():
    return train(batches())


def test_a_source_is_the_array_of_its_items():
    expected, history = train(DATA)
    got, other = train(Source())
    np.testing.assert_allclose(other["loss"], history["loss"], rtol=1e-6)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_an_iterator_gives_its_batches_in_order(by_iterator):
    seen = []
    first = lambda model, batch, *, key: jnp.mean(batch) + 0 * jnp.sum(model.bias)
    _, history = train(batches(), loss=first)
    seen = [np.mean(batch) for batch in itertools.islice(batches(), 12)]
    np.testing.assert_allclose(history["loss"], seen, rtol=1e-5, atol=1e-7)
    assert same(train(Loader())[0], by_iterator[0])


@pytest.mark.parametrize("make", [batches, Loader, Bytes, Source], ids=lambda make: make.__name__)
def test_a_run_goes_on_to_the_bit(make, by_iterator, tmp_path):
    path = tmp_path / "run.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(make(), checkpoint=path, progress=Meter([], most=2))
    data = make()
    model, history = train(data, checkpoint=path)
    assert history["resumed_from"] in (5, 10)
    assert same(model, train(make())[0])
    if make is not Source:
        assert same(model, by_iterator[0])
    if make is Loader:
        # It was set, and has not read what was done.
        assert data.position == 12


def test_an_iterator_that_ends_keeps_what_is_done(tmp_path, by_iterator):
    path = tmp_path / "run.safetensors"
    with pytest.raises(ValueError, match="ended after 7 batches, before `num_steps`. Let it repeat"):
        train(itertools.islice(batches(), 7), checkpoint=path)
    model, history = train(batches(), checkpoint=path)
    assert history["resumed_from"] == 5
    assert same(model, by_iterator[0])


def test_accumulated_gradients_are_those_of_the_batch():
    whole, history = train(DATA, loss=plain_loss)
    for optimiser in (None, optax.lbfgs(memory_size=2)):
        whole, history = train(DATA, loss=plain_loss, optimiser=optimiser)
        pieces, other = train(DATA, loss=plain_loss, optimiser=optimiser, accumulate=4)
        np.testing.assert_allclose(other["loss"], history["loss"], rtol=1e-4, atol=1e-6)
        for a, b in zip(jax.tree.leaves(pieces), jax.tree.leaves(whole), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_low_precision_computes_and_float32_keeps():
    kinds = []

    def noting(model, batch, *, key):
        kinds.append((model.weight.dtype, batch.dtype))
        return plain_loss(model, batch, key=key)

    low, history = train(DATA, loss=noting, compute_dtype=jnp.bfloat16, validation=DATA)
    assert set(kinds) == {(jnp.dtype(jnp.bfloat16),) * 2}
    assert low.weight.dtype == history["loss"].dtype == jnp.float32
    full, expected = train(DATA, loss=plain_loss)
    # Eight bits of each number.
    np.testing.assert_allclose(history["loss"], expected["loss"], rtol=0.05)
    # Updates far below the resolution of bfloat16 add up.
    assert not np.array_equal(low.weight, low.weight.astype(jnp.bfloat16).astype(jnp.float32))


def test_a_report_for_any_logger():
    said = []
    _, history = train(DATA, validation=DATA, report=lambda step, metrics: said.append((step, metrics)))
    assert [step for step, _ in said] == [5, 10, 12]
    np.testing.assert_allclose([metrics["loss"] for _, metrics in said][2], history["loss"][10:].mean(), rtol=1e-6)
    np.testing.assert_allclose([metrics["validation"] for _, metrics in said], history["validation"])
    assert all(isinstance(value, float) for _, metrics in said for value in metrics.values())


@pytest.mark.parametrize(
    ("data", "options", "match"),
    [
        (lambda: iter([]), {}, "ended after 0 batches"),
        (lambda: iter([DATA[:4]]), {}, r"Batch 0 of `data` has arrays of shapes \[\(4, 5\)\], and `batch_size` is 8"),
        (lambda: iter([DATA[:8], DATA[:8, :3]]), {}, "Batch 1 of `data` is .*and the first was"),
        (lambda: iter([DATA[:8].astype(int)]), {}, "must be of a floating dtype"),
        (Mixed, {"batch_size": 1}, r"must be alike: .*\(1, 3\).*and the first ones made .*\(1, 5\)"),
        (Source, {"batch_size": 21}, "`batch_size` is 21, more than the 20 examples of `data`"),
        (lambda: DATA, {"accumulate": 3}, "`accumulate` is 3, and `batch_size` 8; 3 pieces need a multiple of 3"),
        (lambda: DATA, {"accumulate": 0}, "`accumulate`"),
        (lambda: DATA, {"compute_dtype": "int8"}, "`compute_dtype` must be a floating dtype.*got 'int8'"),
        (lambda: DATA, {"report": 3}, "`report` must be a function of the step and a dict; got int"),
    ],
)
def test_wrong_input(data, options, match):
    with pytest.raises(ValueError, match=match):
        train(data(), **options)
