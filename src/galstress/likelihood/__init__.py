"""The exact model of an image: log-likelihood, gradient and Fisher matrix."""

from galstress.likelihood.likelihood import Likelihood

__all__ = ["Likelihood"]
