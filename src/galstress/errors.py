"""The few errors that a caller may recover from.

Each message is one line that says what came, what is allowed and what to do next; the
values are kept as attributes. Everything else that goes wrong is a bug and stays a plain
Python error.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["GalstressError", "InputError", "UnknownNameError"]


class GalstressError(Exception):
    """Any error that galstress raises on purpose; the command line prints it as one line."""


class InputError(GalstressError, ValueError):
    """A file, an array or a number that cannot be used.

    Arguments:
        came: What was given.
        allowed: What would have been accepted.
        next_step: What the caller can do about it.

    Example:
        >>> raise InputError("stamp_px=0", "an integer of at least 16", "give stamp_px=64")
        Traceback (most recent call last):
        galstress.errors.InputError: got stamp_px=0; allowed: an integer of at least 16; next: give stamp_px=64
    """

    def __init__(self, came: str, allowed: str, next_step: str) -> None:
        super().__init__(came, allowed, next_step)
        self.came, self.allowed, self.next_step = came, allowed, next_step

    def __str__(self) -> str:
        """One line: what came, what is allowed, what to do next."""
        line = f"got {self.came}; allowed: {self.allowed}; next: {self.next_step}"
        return " ".join(line.split())


class UnknownNameError(InputError, KeyError):
    """A name (of a survey, a network, a data set, ...) that is not known.

    Arguments:
        kind: What the name should have named, for example ``"survey"``.
        name: The name that came.
        known: The names that exist.
        next_step: What to do instead; by default, choose one of them.
    """

    def __init__(self, kind: str, name: str, known: Sequence[str], next_step: str = "") -> None:
        super().__init__(
            f"{kind} {name!r}",
            ", ".join(sorted(known)) or "none here",
            next_step or f"choose one of these {kind}s",
        )
        self.kind, self.name, self.known = kind, name, tuple(known)

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle through the constructor's own arguments."""
        return type(self), (self.kind, self.name, self.known, self.next_step)
