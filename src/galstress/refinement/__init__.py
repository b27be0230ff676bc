"""The network proposes, the likelihood refines: exact posteriors, fits and limits."""

from galstress.refinement.fit import fit
from galstress.refinement.limits import limit
from galstress.refinement.priors import PopulationPrior, WeakPrior
from galstress.refinement.refining import refine

__all__ = ["PopulationPrior", "WeakPrior", "fit", "limit", "refine"]
