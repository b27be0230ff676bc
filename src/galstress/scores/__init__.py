"""How good predictions are: bias, scatter, outliers, coverage, each with its interval.

Pure: arrays and a Prediction go in, tidy tables come out. Bins are cut on predicted or
measured quantities and never on the truth, since a perfect posterior is not calibrated in
bins of the truth; every error stands beside the error of guessing the prior's median.
"""

from galstress.scores.accuracy import accuracy_table
from galstress.scores.bins import Bins, equal_bins, predicted_bins
from galstress.scores.calibration import coverage_curve, probability_integral_transform, rank_uniformity
from galstress.scores.classes import (
    CUTS,
    Cut,
    brier_score,
    call_classes,
    class_table,
    confusion_table,
    cut_for_share,
    log_loss,
    reliability_table,
    risk_area,
    risk_curve,
)
from galstress.scores.coverage import count_covered, coverage_table, place_among_quantiles, place_among_samples
from galstress.scores.credibility import TarpCurve, tarp
from galstress.scores.posterior import Posterior, errors, guess_the_median, is_ratio, truth_values
from galstress.scores.recalibration import (
    apply_temperature,
    conformal_interval,
    fit_conformal,
    fit_conformal_bins,
    fit_temperature,
    margins_in_bins,
)
from galstress.scores.statistics import (
    Interval,
    bias,
    bootstrap,
    error_68,
    outlier_fraction,
    rms,
    scatter,
)

__all__ = [
    "CUTS",
    "Bins",
    "Cut",
    "Interval",
    "Posterior",
    "TarpCurve",
    "accuracy_table",
    "apply_temperature",
    "bias",
    "bootstrap",
    "brier_score",
    "call_classes",
    "class_table",
    "conformal_interval",
    "confusion_table",
    "count_covered",
    "coverage_curve",
    "coverage_table",
    "cut_for_share",
    "equal_bins",
    "error_68",
    "errors",
    "fit_conformal",
    "fit_conformal_bins",
    "fit_temperature",
    "guess_the_median",
    "is_ratio",
    "log_loss",
    "margins_in_bins",
    "outlier_fraction",
    "place_among_quantiles",
    "place_among_samples",
    "predicted_bins",
    "probability_integral_transform",
    "rank_uniformity",
    "reliability_table",
    "risk_area",
    "risk_curve",
    "rms",
    "scatter",
    "tarp",
    "truth_values",
]
