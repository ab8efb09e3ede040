"""The command `jaxinv train`, which trains a generative prior or a score and writes its file."""

from pathlib import Path

import jax

from . import _score
from ._files import check_outputs, keeping, scratch_file
from ._images import load
from ._networks import KINDS, rngs_of, save
from ._progress import Bar


def run(*, kind: str, data: str, latents: int, steps: int, batch: int, seed: int, output: Path) -> None:
    """Train a network and write it; an interrupted run of the same settings continues."""
    check_outputs([output], [data])
    keys = [jax.random.fold_in(jax.random.key(seed), i) for i in range(2)]
    train, tuning, test = load(data, 100, quick=False)
    shape = train.shape[1:]
    print(f"{data}: {len(train)} training images of {shape[0]} x {shape[1]}; no pairs are used.")
    checkpoint = scratch_file(output)
    chosen = KINDS[kind]
    model, history = chosen.train(
        chosen.make(shape, latents, rngs_of(keys[0])),
        train,
        tuning,
        key=keys[1],
        num_steps=steps,
        batch_size=batch,
        checkpoint=checkpoint,
        progress=Bar(f"Training: {kind}"),
    )
    with keeping(checkpoint):
        save(output, kind, shape, latents, model, train)
    if history["resumed_from"]:
        print(f"Went on from step {history['resumed_from']}.")
    verdict = chosen.evaluate(chosen.prior(model, chosen.latents(model, train)), test)
    print(f"{kind}: {steps} steps in {history['seconds']:.0f} s; {verdict} on held-out images.")
    print(f"Wrote {output}. Use it: jaxinv reconstruct MEASUREMENT --operator blur:2 --prior {output}")
    print(f"Or see how good it is: jaxinv evaluate {output} --task deblurring --data {data}")


def run_score(*, network: str, data: str, process: str, steps: int, batch: int, seed: int, output: Path) -> None:
    """Train a score network and write it; an interrupted run of the same settings continues."""
    check_outputs([output], [data])
    keys = [jax.random.fold_in(jax.random.key(seed), i) for i in range(2)]
    train, tuning, _ = load(data, 1, quick=False)
    print(f"{data}: {len(train)} training images of {train.shape[1]} x {train.shape[2]}.")
    checkpoint = scratch_file(output)
    score, history = _score.fit(
        _score.make(network, train.shape[1:], keys[0]),
        train,
        tuning,
        key=keys[1],
        process=process,
        num_steps=steps,
        batch_size=batch,
        checkpoint=checkpoint,
        progress=Bar("Training: score"),
    )
    with keeping(checkpoint):
        _score.save(output, network, score)
    if history["resumed_from"]:
        print(f"Went on from step {history['resumed_from']}.")
    print(f"score: {steps} steps in {history['seconds']:.0f} s; validation loss {min(history['validation']):.4f}.")
    print(f"Wrote {output}. Use it: jaxinv sample {output}")
