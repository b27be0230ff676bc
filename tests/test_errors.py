"""Errors: one line, with what came, what is allowed and what to do next."""

import pickle

import pytest

from galstress.errors import GalstressError, InputError, UnknownNameError


def test_one_line_whatever_came():
    error = InputError("a\n  traceback\tof\n\nlines", "one\nline", "shorten it\n")
    assert str(error) == "got a traceback of lines; allowed: one line; next: shorten it"
    assert (error.came, error.allowed) == ("a\n  traceback\tof\n\nlines", "one\nline")


def test_unknown_name_lists_the_known_ones_sorted():
    error = UnknownNameError("network", "fovea", ("gampen", "foveal"))
    assert str(error) == "got network 'fovea'; allowed: foveal, gampen; next: choose one of these networks"
    assert (error.kind, error.name, error.known) == ("network", "fovea", ("gampen", "foveal"))


def test_unknown_name_where_nothing_is_known():
    assert (
        str(UnknownNameError("output", "x", (), "train one")) == "got output 'x'; allowed: none here; next: train one"
    )


def test_what_catches_them():
    for error in (InputError("a", "b", "c"), UnknownNameError("a", "b", ("c",))):
        assert isinstance(error, GalstressError)
        assert isinstance(error, ValueError)
    assert isinstance(UnknownNameError("a", "b", ("c",)), KeyError)


@pytest.mark.parametrize(
    "error",
    [InputError("a", "b", "c"), UnknownNameError("survey", "x", ("y", "z")), UnknownNameError("survey", "x", (), "go")],
)
def test_they_pass_between_processes(error):
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert again.__dict__ == error.__dict__
