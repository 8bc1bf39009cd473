"""Packages that are not installed."""

from tracekit.backends.packages import missing_package


def test_the_first_that_is_missing_is_named_with_how_to_get_it():
    assert missing_package("json", "sys") is None
    assert (
        missing_package("json", "no_such_package", "nor_this")
        == "the package no_such_package is not installed: pip install no_such_package"
    )
