"""Errors that a user can act on, and the exit codes that the commands document."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of the commands."""

    DONE = 0
    BUG = 1
    USAGE = 2
    MISSING = 3
    INTEGRITY = 4
    MEMORY = 5
    PARTLY = 6
    DIVERGED = 7
    INTERRUPTED = 130


class InrflowError(Exception):
    """An error that the user can fix; printed as one sentence and a hint, without a traceback.

    The message says what is wrong and which value was found, the hint what is allowed or what to do. Neither ends with a
    full stop where it is a single sentence.
    """

    code = Exit.USAGE

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self):
        """Pickle with the hint."""
        return _rebuild, (type(self), self.message, self.hint)


class UsageError(InrflowError):
    """A setting, a name or an argument that cannot be used (exit code 2)."""

    code = Exit.USAGE


class MissingError(InrflowError):
    """Data, weights or a run that does not exist (exit code 3)."""

    code = Exit.MISSING


class IntegrityError(InrflowError):
    """A file that does not match its digest, schema or header (exit code 4)."""

    code = Exit.INTEGRITY


class OutOfMemory(InrflowError):
    """Not enough memory or disk space (exit code 5)."""

    code = Exit.MEMORY


class Diverged(InrflowError):
    """Training or sampling gave values that are not finite (exit code 7)."""

    code = Exit.DIVERGED


class Interrupted(InrflowError):
    """Ctrl-C or SIGTERM, after the state was saved (exit code 130)."""

    code = Exit.INTERRUPTED


def did_you_mean(name: str, allowed: Iterable[str], *, most: int = 1, listed: int | None = None) -> str:
    """A hint for a name that does not exist: the nearest allowed one, or else all of them; names that differ by case alone are
    the nearest.

    With `most` above 1, that many of the nearest, however far they are. More than `listed` names are abbreviated to the first, the
    last and their number.
    """
    choices = sorted(allowed)
    near = [choice for choice in choices if most == 1 and choice.casefold() == name.casefold()]
    near = near or difflib.get_close_matches(name, choices, n=most, cutoff=0.6 if most == 1 else 0.0)
    if near:
        *others, last = (f"`{choice}`" for choice in near)
        return f"did you mean {', '.join(others)}{' or ' if others else ''}{last}?"
    if listed is not None and len(choices) > listed:
        return f"allowed: {len(choices)} names, `{choices[0]}` to `{choices[-1]}`"
    return "allowed: " + ", ".join(f"`{choice}`" for choice in choices)


def _rebuild(kind: type[InrflowError], message: str, hint: str | None) -> InrflowError:
    return kind(message, hint=hint)


class UnreadableItemError(Exception):
    """An item that cannot be read: skipped, and named in the manifest with this reason.

    The reason goes into a file that must be the same everywhere: no path, no address, no time in it.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
