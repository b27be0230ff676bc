"""Networks: backbones, and the record that saves one with all it needs."""

from galstress.networks.foveal import Foveal
from galstress.networks.gamornet import GaMorNet
from galstress.networks.gampen import GaMPEN
from galstress.networks.network import Network, available_networks

__all__ = ["Foveal", "GaMPEN", "GaMorNet", "Network", "available_networks"]
