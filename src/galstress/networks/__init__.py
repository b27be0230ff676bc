"""Networks: backbones, and the record that saves one with all it needs."""

from galstress.networks.foveal import Foveal
from galstress.networks.network import Network, available_networks

__all__ = ["Foveal", "Network", "available_networks"]
