"""The checker of shapes and types that the tests put around every function of inrflow_core."""

from __future__ import annotations

import builtins
import functools
import inspect
import re
from collections.abc import Callable
from typing import Any, get_args

import jaxtyping
from beartype import BeartypeConf, beartype

# As type checkers have it, a whole number is welcome where a number is.
checked = beartype(conf=BeartypeConf(is_pep484_tower=True))

_jaxtyped = jaxtyping.jaxtyped


def install() -> None:
    """Check inrflow_core's functions from now on: shapes where an annotation names an array, else types alone.

    jaxtyping's own wrapper binds the arguments of every call to their names and checks them twice, for the sake of its
    messages. Half of a cheap function's time went there.
    """
    jaxtyping.jaxtyped = _check
    jaxtyping.install_import_hook("inrflow_core", "tests.type_checks.checked")


def _check(*, typechecker: Any) -> Callable[[Any], Any]:
    by_jaxtyping = _jaxtyped(typechecker=typechecker)

    def decorate(function: Any) -> Any:
        annotations = getattr(function, "__annotations__", None)
        names = getattr(function, "__globals__", None)
        if annotations is None or names is None or isinstance(function, type) or inspect.isgeneratorfunction(function):
            return by_jaxtyping(function)
        text = " ".join(map(str, annotations.values()))
        words = set(re.findall(r"(?<![.\w])[A-Za-z_]\w*", re.sub(r"""(["']).*?\1""", "", text)))
        known = {**vars(builtins), **names}
        # A class below the function, an import for type checkers alone, or a size that an argument says.
        if any(word not in known for word in words) or "{" in text:
            return by_jaxtyping(function)
        has_shapes = any(_has_shape(known[word]) for word in words)
        return _check_shapes(typechecker(function)) if has_shapes else typechecker(function)

    return decorate


def _check_shapes(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let a letter mean one size in all arguments and the result of a call."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with _jaxtyped("context"):
            return function(*args, **kwargs)

    return call


def _has_shape(annotation: Any) -> bool:
    """Whether it is jaxtyping's, or a name for something that has some of jaxtyping's in it."""
    owner = annotation.__module__ if isinstance(annotation, type) else type(annotation).__module__
    return str(owner).startswith("jaxtyping") or any(_has_shape(each) for each in get_args(annotation))
