"""The Network record: backbone and head with everything needed to use them, as one file."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from galstress.cutouts import Cutouts
from galstress.errors import InputError, UnknownNameError
from galstress.heads import ClassHead, FlowHead, GalaxyHead, TripleHead
from galstress.networks.foveal import Foveal
from galstress.networks.gamornet import GaMorNet
from galstress.networks.gampen import GaMPEN

__all__ = ["BACKBONES", "HEADS", "Network", "available_networks"]

BACKBONES: Mapping[str, Callable[..., nn.Module]] = {"foveal": Foveal, "gamornet": GaMorNet, "gampen": GaMPEN}
"""Backbones by name: one line adds one to the command line."""
HEADS: Mapping[str, Callable[..., nn.Module]] = {
    "galaxy": GalaxyHead,
    "flow": FlowHead,
    "classes": ClassHead,
    "triple": TripleHead,
    "triple-published": functools.partial(TripleHead, margin=0.0),
}
"""Heads by name."""
_HEAD_OF = {"gamornet": "classes", "gampen": "triple"}
"""The head of a backbone whose last layer is the output; others take the one that is asked for."""


@dataclasses.dataclass(frozen=True)
class Network:
    """A backbone, its head, and what they were made from.

    Example:
        >>> network = Network.build("foveal", width=0.5)
        >>> network.metadata["backbone"]["name"]
        'foveal'
    """

    backbone: Any
    """``nn.Module`` with ``inputs(cutouts)``, ``features`` and ``stages`` (name to module, in order)."""
    head: Any
    """``nn.Module`` with ``targets``, ``loss`` and ``posterior``."""
    metadata: Mapping[str, Any]
    """Names and settings of both, and how they were trained: population, surveys, steps, seed, domain."""

    @classmethod
    def build(cls, backbone: str = "foveal", head: str | None = None, **settings: Any) -> Network:  # noqa: ANN401
        """A fresh network with random weights.

        Arguments:
            backbone: A name in :data:`BACKBONES`.
            head: A name in :data:`HEADS`; by default the backbone's own, or ``galaxy``.
            settings: The backbone's arguments.
        """
        if backbone not in BACKBONES:
            raise UnknownNameError("backbone", backbone, tuple(BACKBONES))
        head = head or _HEAD_OF.get(backbone, "galaxy")
        if head not in HEADS:
            raise UnknownNameError("head", head, tuple(HEADS))
        body = BACKBONES[backbone](**settings)
        body.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        record = {"backbone": {"name": backbone, "settings": settings}, "head": {"name": head}}
        return cls(body, HEADS[head](body.features), record)

    def raw(self, cutouts: Cutouts) -> tuple[Tensor, Any]:
        """The head's raw outputs of cutouts, and the inputs that the backbone took."""
        inputs = self.backbone.inputs(cutouts)
        return self.head(self.backbone(inputs)), inputs

    def modules(self) -> nn.ModuleDict:
        """Backbone and head under the names that the file uses."""
        return nn.ModuleDict({"backbone": self.backbone, "head": self.head})

    def parameters(self) -> list[nn.Parameter]:
        """Everything that training changes."""
        return list(self.modules().parameters())

    def to(self, device: torch.device | str) -> Network:
        """Move both modules (in place, as torch does) and return the network."""
        self.modules().to(device)
        return self

    def with_metadata(self, **entries: object) -> Network:
        """The same weights with more said about them."""
        return dataclasses.replace(self, metadata={**self.metadata, **entries})

    def save(self, path: str | Path, half: bool = False) -> None:
        """Write weights and metadata as one safetensors file, aside and then renamed.

        Arguments:
            path: Where to.
            half: Store weights as float16 (buffers keep their precision).
        """
        path = Path(path)
        buffers = dict(self.modules().named_buffers())
        tensors = {
            name: (t.half() if half and name not in buffers else t).detach().cpu().contiguous()
            for name, t in self.modules().state_dict().items()
        }
        aside = path.with_name(path.name + ".part")
        save_file(tensors, aside, metadata={"galstress": json.dumps(dict(self.metadata))})
        aside.replace(path)

    @classmethod
    def load(cls, name: str | Path) -> Network:
        """Read a network: a name that ships with the package, or a path to a file written by :meth:`save`.

        Raises:
            UnknownNameError: No such name.
            InputError: Not a file of galstress weights.
        """
        path = _located(name)
        try:
            with safe_open(path, framework="pt") as file:
                record = json.loads((file.metadata() or {})["galstress"])
                tensors = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as error:
            raise InputError(f"{path} ({error})", "a file written by Network.save", "train or copy it again") from None
        network = cls.build(record["backbone"]["name"], record["head"]["name"], **record["backbone"]["settings"])
        try:
            network.modules().load_state_dict(tensors)
        except RuntimeError as error:
            raise InputError(f"{path} ({str(error)[:200]})", "weights of this architecture", "train it again") from None
        network.modules().eval()
        return dataclasses.replace(network, metadata=record)


def available_networks() -> tuple[str, ...]:
    """Names of the weights that ship with the package, sorted."""
    folder = resources.files("galstress") / "weights"
    return tuple(sorted(e.name[:-12] for e in folder.iterdir() if e.name.endswith(".safetensors")))


def _located(name: str | Path) -> Path:
    """The file of a shipped name or of a path."""
    path = Path(name)
    if path.suffix == ".safetensors" or path.exists():
        if not path.is_file():
            raise InputError(f"weights file {path}", "a file that exists", "check the path")
        return path
    if str(name) not in available_networks():
        raise UnknownNameError(
            "network", str(name), available_networks(), "choose one, or give a path to a .safetensors file"
        )
    return Path(str(resources.files("galstress") / "weights" / f"{name}.safetensors"))
