"""The parts from which you build samplers, posterior methods, guidances and twists of your own.

`diffusion.AbstractPosteriorMethod` says what to implement, and has an example. A method gets its problem from one of
the functions here, steps with `advance`, and is then given to `diffusion.posterior_sample` as any other. A guidance can
also move the particles of `diffusion.TDS`, and a twist weighs them.
"""

from ._posterior import (
    AbstractGuidance as AbstractGuidance,
    AbstractProblem as AbstractProblem,
    AbstractTwist as AbstractTwist,
    AbstractTwistView as AbstractTwistView,
    CurvedProblem as CurvedProblem,
    DenseProblem as DenseProblem,
    ExactProblem as ExactProblem,
    Guided as Guided,
    LinearProblem as LinearProblem,
    Problem as Problem,
    ShiftView as ShiftView,
    advance as advance,
    any_problem as any_problem,
    curved_problem as curved_problem,
    dense_problem as dense_problem,
    exact_problem as exact_problem,
    guided_transition as guided_transition,
    linear_problem as linear_problem,
)
from ._processes._process import target as target
from ._samplers._sampler import Options as Options, Path as Path

__all__ = [
    "AbstractGuidance",
    "AbstractProblem",
    "AbstractTwist",
    "AbstractTwistView",
    "CurvedProblem",
    "DenseProblem",
    "ExactProblem",
    "Guided",
    "LinearProblem",
    "Options",
    "Path",
    "Problem",
    "ShiftView",
    "advance",
    "any_problem",
    "curved_problem",
    "dense_problem",
    "exact_problem",
    "guided_transition",
    "linear_problem",
    "target",
]
