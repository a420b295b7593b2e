"""Numbers of the command line, for those who look for them here."""

from qfix.numbers import number

__all__ = ["number"]
