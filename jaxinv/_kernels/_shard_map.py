"""The adjustment of operand types that our primitives need inside `jax.shard_map`."""

import jax
from jaxtyping import Array


def same_varying(*operands: Array) -> tuple[Array, ...]:
    """The operands, cast so that all of them vary over every axis of the mesh over which one of them varies.

    Inside `jax.shard_map` the type of an array says along which axes of the mesh its value differs, and a primitive
    requires operands of one such type. Outside, the operands are unchanged.
    """
    axes = frozenset().union(*(_axes(operand) for operand in operands))
    return tuple(_vary(operand, tuple(sorted(axes - _axes(operand)))) for operand in operands)


def _axes(operand: Array) -> frozenset:
    return jax.typeof(operand).manual_axis_type.varying


def _vary(operand: Array, axes: tuple) -> Array:
    return jax.lax.pcast(operand, axes, to="varying") if axes else operand
