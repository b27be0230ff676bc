"""Fine-tuning on few labelled galaxies, and whether it pays: against a linear recalibration, out of fold."""

from galstress.finetuning.comparing import Comparison, cross_validate
from galstress.finetuning.labels import COORDINATES, LABELS, Labels, read_labels
from galstress.finetuning.losses import label_loss, marginal_loss, score_draws
from galstress.finetuning.policies import POLICIES, rate_factors
from galstress.finetuning.quantities import apply_lines, fit_lines, heat_classes
from galstress.finetuning.splitting import deal_folds, read_groups, split_rows
from galstress.finetuning.tuning import FineTuned, Tuning, finetune
from galstress.finetuning.turning import Turn, choose_side, draw_turn, exact_turn, trim, turn_cutouts

__all__ = [
    "COORDINATES",
    "LABELS",
    "POLICIES",
    "Comparison",
    "FineTuned",
    "Labels",
    "Tuning",
    "Turn",
    "apply_lines",
    "choose_side",
    "cross_validate",
    "deal_folds",
    "draw_turn",
    "exact_turn",
    "finetune",
    "fit_lines",
    "heat_classes",
    "label_loss",
    "marginal_loss",
    "rate_factors",
    "read_groups",
    "read_labels",
    "score_draws",
    "split_rows",
    "trim",
    "turn_cutouts",
]
