"""What a network says of cutouts."""

from galstress.prediction.dropout import draw_probabilities
from galstress.prediction.predicting import predict

__all__ = ["draw_probabilities", "predict"]
