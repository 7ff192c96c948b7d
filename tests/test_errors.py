"""Errors: what a user reads, and the exit code that a script sees."""

from __future__ import annotations

import pickle

import pytest

from inrflow_core.errors import (
    Diverged,
    Exit,
    InrflowError,
    IntegrityError,
    Interrupted,
    MissingError,
    OutOfMemory,
    UsageError,
    did_you_mean,
)

CODES = {UsageError: 2, MissingError: 3, IntegrityError: 4, OutOfMemory: 5, Diverged: 7, Interrupted: 130}


@pytest.mark.parametrize(("kind", "code"), CODES.items(), ids=lambda value: getattr(value, "__name__", value))
def test_each_error_has_the_exit_code_that_the_commands_document(kind: type[InrflowError], code: int):
    assert int(kind("something").code) == code


def test_exit_codes_are_all_different():
    assert len({int(code) for code in Exit}) == len(Exit) == 9


def test_an_error_crosses_a_process_border_with_its_kind_and_its_hint():
    error = pickle.loads(pickle.dumps(MissingError("no shards", hint="prepare them")))
    assert (type(error), error.message, error.hint) == (MissingError, "no shards", "prepare them")


def test_a_misspelt_name_gets_the_nearest_one_and_a_strange_one_gets_all():
    assert did_you_mean("num_laters", ["num_layers", "width"]) == "did you mean `num_layers`?"
    assert did_you_mean("xyz", ["width", "depth"]) == "allowed: `depth`, `width`"


def test_names_that_differ_by_case_alone_are_the_nearest_and_long_lists_are_abbreviated():
    letters = [chr(ord("A") + number) for number in range(26)]
    assert did_you_mean("r", letters, listed=12) == "did you mean `R`?"
    assert did_you_mean("TORUS", ["torus", "Tori"]) == "did you mean `torus`?"
    assert did_you_mean("?", letters, listed=12) == "allowed: 26 names, `A` to `Z`"
    assert did_you_mean("?", letters[:12], listed=12).count("`") == 24
