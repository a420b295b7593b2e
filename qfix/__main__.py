"""Run qfix as ``python -m qfix``."""

from qfix.cli import run

run()
