"""``python -m galstress.cli``."""

from galstress.cli.commands import main

main()
