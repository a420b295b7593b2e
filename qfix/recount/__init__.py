"""The one reference counting engine: every reference to every host cluster, counted once."""

from qfix.recount.engine import Recount, recount
from qfix.recount.tally import Kind, Tally

__all__ = ["Kind", "Recount", "Tally", "recount"]
