"""What a network says of cutouts."""

from galstress.prediction.dropout import draw_probabilities
from galstress.prediction.predicting import predict
from galstress.prediction.turns import count_turns

__all__ = ["count_turns", "draw_probabilities", "predict"]
