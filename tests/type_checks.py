"""The checker of shapes and types that the tests put around every function of inrflow_core."""

from __future__ import annotations

import builtins
import re
from collections.abc import Callable
from typing import Any, get_args

import jaxtyping
from beartype import BeartypeConf, beartype

# As type checkers have it, a whole number is welcome where a number is.
checked = beartype(conf=BeartypeConf(is_pep484_tower=True))

_check_shapes = jaxtyping.jaxtyped


def install() -> None:
    """Check inrflow_core's functions from now on: shapes where an annotation names an array, else types alone.

    jaxtyping binds the arguments of every call to their names, for the letters of shapes. Where no annotation has any
    that is half of a cheap function's time.
    """
    jaxtyping.jaxtyped = _check
    jaxtyping.install_import_hook("inrflow_core", "tests.type_checks.checked")


def _check(*, typechecker: Any) -> Callable[[Any], Any]:
    shapes = _check_shapes(typechecker=typechecker)

    def decorate(function: Any) -> Any:
        annotations = getattr(function, "__annotations__", None)
        names = getattr(function, "__globals__", None)
        if isinstance(function, type) or annotations is None or names is None:
            return shapes(function)
        words = {word for each in annotations.values() for word in re.findall(r"(?<![.\w])[A-Za-z_]\w*", str(each))}
        known = {**vars(builtins), **names}  # not: classes below the function, imports for type checkers alone
        if any(word not in known or _has_shape(known[word]) for word in words):
            return shapes(function)
        return typechecker(function)

    return decorate


def _has_shape(annotation: Any) -> bool:
    """Whether it is jaxtyping's, or a name for something that has some of jaxtyping's in it."""
    owner = annotation.__module__ if isinstance(annotation, type) else type(annotation).__module__
    return str(owner).startswith("jaxtyping") or any(_has_shape(each) for each in get_args(annotation))
