"""What a network says of cutouts."""

from galstress.prediction.predicting import predict

__all__ = ["predict"]
