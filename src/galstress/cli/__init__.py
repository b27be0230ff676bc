"""The command line: one command a step; it parses, calls, saves and writes a manifest."""

from galstress.cli.commands import app, main

__all__ = ["app", "main"]
