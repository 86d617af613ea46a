"""Matmul FLOPs of a program, counted over its jaxpr because XLA's own cost analysis counts a loop's body only once."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr


def count_flops(function: Callable, *args) -> int:
    """Floating-point operations of all matrix products in `function(*args)`, a multiply and an add counted as two.

    `args` may be shapes (`jax.ShapeDtypeStruct`): nothing is computed. Loops count as often as they run, a condition as its
    most expensive branch. Raises ValueError for a loop whose trip count is known only at run time.

    Example: `count_flops(lambda a, b: a @ b, a, b)`.
    """
    return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr: Jaxpr) -> int:
    return sum(_count_equation(equation) for equation in jaxpr.eqns)


def _count_equation(equation) -> int:
    name, inner = equation.primitive.name, [_count(jaxpr) for jaxpr in _inner_jaxprs(equation.params)]
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        depth = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
        return 2 * depth * math.prod(equation.outvars[0].aval.shape)
    if name == "scan":
        return equation.params["length"] * sum(inner)
    if name == "while" and any(inner):
        raise ValueError("a while loop does matrix products: how often is known only at run time")
    return max(inner, default=0) if name == "cond" else sum(inner)


def _inner_jaxprs(params: dict[str, Any]) -> Iterator[Jaxpr]:
    for value in params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            if isinstance(part, ClosedJaxpr):
                yield part.jaxpr
            elif isinstance(part, Jaxpr):
                yield part
