"""What all commands share: their options, the set-up of a run, and the manifest beside its result."""

from __future__ import annotations

import ctypes
import dataclasses
import datetime
import hashlib
import importlib.metadata
import json
import logging
import platform
import time
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import typer

from galstress.errors import InputError

__all__ = ["Device", "Quiet", "Run", "Seed", "begin", "keep_memory", "weights_path", "write_manifest"]

Seed = Annotated[int, typer.Option(help="Of everything random; the same seed gives the same result.")]
Device = Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, mps.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")]


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a command."""

    command: str
    """Its name."""
    arguments: Mapping[str, Any]
    """What it was given, defaults included."""
    began: float
    """When, by the process's own clock."""

    @property
    def quiet(self) -> bool:
        """Whether nothing is said."""
        return bool(self.arguments.get("quiet"))

    def say(self, text: str) -> None:
        """A line for people, on standard output."""
        if not self.quiet:
            typer.echo(text)

    def finish(
        self, result: Path, inputs: Iterable[Path] = (), galaxies: int = 0, seconds: float = 0.0, **more: object
    ) -> None:
        """Write the manifest beside a result.

        Arguments:
            result: What was made.
            inputs: Files and folders that it was made from, weights included.
            galaxies: How many were drawn or measured.
            seconds: How long that took; left out, the whole run's time.
            more: Further entries.
        """
        elapsed = time.perf_counter() - self.began
        entries: dict[str, Any] = {
            "command": f"galstress {self.command}",
            "arguments": {name: _plain(value) for name, value in self.arguments.items()},
            "seed": self.arguments.get("seed"),
            "device": self.arguments.get("device"),
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "result": result.name,
            "versions": _versions(),
            "checksums": {name: digest for path in inputs for name, digest in _checksums(path).items()},
            "elapsed_s": round(elapsed, 3),
        }
        if galaxies:
            entries["galaxies_per_second"] = round(galaxies / max(seconds or elapsed, 1e-9), 2)
        write_manifest(result.parent if result.suffix else result, entries | more)


def begin(context: typer.Context, *, computes: bool = True) -> Run:
    """Set up a run: log for people, memory that stays, and what would be a pity to find out after the work.

    Arguments:
        context: The command's.
        computes: Whether it will compute with torch; then the device is tried at once.

    Raises:
        InputError: There is no such device here, or no folder for the result.
    """
    arguments = dict(context.params)
    output = arguments.get("output")
    if isinstance(output, Path) and not output.parent.is_dir():
        raise InputError(f"--output {output}", "a path in a folder that exists", f"make the folder {output.parent}")
    level = logging.ERROR if arguments.get("quiet") else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s: %(message)s")
    run = Run(context.info_name or "", arguments, time.perf_counter())
    if computes:
        keep_memory()
        import torch

        try:
            torch.zeros(1, device=arguments["device"])
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            reason = str(error).splitlines()[0][:120]
            raise InputError(
                f"--device {arguments['device']} ({reason})", "a device that torch has here", "use --device cpu"
            ) from None
    return run


def keep_memory() -> bool:
    """Let the C library keep large blocks instead of giving them back to the kernel; True where that was done.

    glibc maps every large tensor anew and unmaps it at once, so the kernel clears the same pages again and again:
    work that makes many tensors took two to four times as long. Nothing is done on other systems, nor where the
    user's environment tunes malloc itself.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    most, kept = 2**31 - 1, 256 * 2**20  # mallopt takes C integers
    maps, trim, pad = -4, -1, -2  # M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD of malloc.h
    return all([mallopt(maps, 0), mallopt(trim, most), mallopt(pad, kept)])


def weights_path(network: str) -> Path:
    """The file behind a network's name or path."""
    path = Path(network)
    if path.suffix == ".safetensors" or path.exists():
        return path
    return Path(str(resources.files("galstress"))) / "weights" / f"{network}.safetensors"


def write_manifest(folder: Path, entries: Mapping[str, Any]) -> Path:
    """Write ``manifest.json`` into a folder, aside and then renamed.

    What an earlier run wrote of another result in the same folder is kept under ``earlier``.
    """
    path = folder / "manifest.json"
    earlier = []
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        earlier = [*before.pop("earlier", []), before]
    except (OSError, ValueError, TypeError, AttributeError):
        pass  # none, or not ours
    earlier = [entry for entry in earlier if entry.get("result") != entries.get("result")]
    record = {**entries, **({"earlier": earlier} if earlier else {})}
    aside = path.with_name("manifest.json.part")
    aside.write_text(json.dumps(record, indent=1, default=str) + "\n", encoding="utf-8")
    return aside.replace(path)


def _versions() -> dict[str, str]:
    """What the answer may depend on."""
    from galstress import __version__

    names = ("torch", "numpy", "astropy")
    found = {name: importlib.metadata.version(name) for name in names}
    return {"galstress": __version__, "python": platform.python_version(), **found}


def _checksums(path: Path) -> dict[str, str]:
    """SHA-256 of a file, or of each file below a folder, by its path from there."""
    if path.is_dir():
        inside = sorted(each for each in path.rglob("*") if each.is_file())
        return {str(each.relative_to(path.parent)): _digest(each) for each in inside}
    return {path.name: _digest(path)} if path.is_file() else {}


def _digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _plain(value: object) -> object:
    """An argument as JSON knows it."""
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value if isinstance(value, str | int | float | bool | type(None)) else str(value)
