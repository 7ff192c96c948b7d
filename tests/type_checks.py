"""The checker of shapes and types that the tests put around every function of inrflow_core."""

from beartype import BeartypeConf, beartype

# As type checkers have it, a whole number is welcome where a number is.
checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
