"""Changed decisions: what matters of a classifier under stress, as tables for the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from galstress.heads import CLASSES
from galstress.report.records import Table
from galstress.report.section import DataTable

__all__ = ["Decisions", "collect_decisions", "say_share", "tabulate_decisions"]


class Decisions(NamedTuple):
    """The most probable classes of N objects at A amounts."""

    amount: np.ndarray
    """(A,) rising."""
    before: np.ndarray
    """(A, N) places of classes on the images as they came, -1 where not measured."""
    after: np.ndarray
    """(A, N) the same on the perturbed images."""

    def tally(self) -> tuple[int, int, int]:
        """Objects measured at all amounts, those whose class changes at any, and from disk to bulge or back."""
        measured = ((self.before >= 0) & (self.after >= 0)).all(0)
        apart = np.abs(self.before - self.after).max(0)[measured]
        return int(measured.sum()), int((apart > 0).sum()), int((apart == len(CLASSES) - 1).sum())


def collect_decisions(stress: Table, kind: str) -> Decisions | None:
    """What a classifier decides before and after each amount of a perturbation; None of other networks.

    Arguments:
        stress: The columns of :func:`galstress.stress`, of one pass.
        kind: Name of the perturbation.
    """
    outputs, amounts = (np.asarray(stress[name]) for name in ("output", "amount"))
    here = (np.asarray(stress["kind" if "kind" in stress else "perturbation"]) == kind) & np.isin(outputs, CLASSES)
    found, different = [], np.unique(amounts[here]).astype(float)
    for amount in different:
        # the objects keep their order
        rows = [here & (amounts == amount) & (outputs == name) for name in CLASSES]
        found.append(
            [
                _decide(np.stack([np.asarray(stress[column], float)[each] for each in rows], -1))
                for column in ("baseline_value", "value")
            ]
        )
    return Decisions(different, *np.stack(found, 1)) if found else None


def tabulate_decisions(passes: Sequence[tuple[str, Table]], kinds: Mapping[str, str], *, turns: bool) -> DataTable:
    """How many galaxies change their class, a row a kind and pass, or a row an amount.

    Arguments:
        passes: Names and columns of each pass.
        kinds: Names of perturbations and their headings.
        turns: Whether amounts are angles: then any of them counts, else each has its row.
    """
    lines = []
    for kind, heading in kinds.items():
        for name, rows in passes:
            decisions = collect_decisions(rows, kind)
            if decisions is None:
                continue
            if turns:
                lines.append((heading, name, *_word(decisions)))
                continue
            for place, amount in enumerate(decisions.amount):
                one = Decisions(*(part[place : place + 1] for part in decisions))
                lines.append((f"{heading}: {amount:g}", name, *_word(one)))
    columns = ("change", "prediction", "galaxies", "class changes", "from disk to bulge or back")
    how = "at any angle" if turns else "at each amount"
    caption = f"Changed decisions {how}: another class is the most probable one (68 % interval of the share)"
    return DataTable(columns, tuple(lines), caption)


def say_share(changed: int, count: int) -> str:
    """A share in per cent with its 68 % interval.

    Formula: Wilson 1927, JASA 22, 209, for z = 1.

    Example:
        >>> say_share(0, 20), say_share(5, 20)
        ('0 % (0 to 5)', '25 % (17 to 36)')
    """
    share = changed / count
    centre, half = share + 0.5 / count, math.sqrt(share * (1 - share) / count + 0.25 / count**2)
    low, high = (max((centre + sign * half) / (1 + 1 / count), 0.0) for sign in (-1, 1))
    return f"{100 * share:.3g} % ({100 * low:.0f} to {100 * high:.0f})"


def _decide(shares: np.ndarray) -> np.ndarray:
    """(N,) place of the most probable class, -1 where not measured."""
    known = np.isfinite(shares).all(-1)
    return np.where(known, np.where(known[:, None], shares, 0.0).argmax(-1), -1)


def _word(decisions: Decisions) -> tuple[str, str, str]:
    """Number of galaxies, share whose class changes, and of those between the outer classes."""
    count, changed, switched = decisions.tally()
    return (str(count), say_share(changed, count), say_share(switched, count)) if count else ("0", "", "")
