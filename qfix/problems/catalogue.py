"""The whole catalogue: every kind of thing that can be wrong, by code."""

from qfix.problems import bitmaps, extensions, header, refcounts, snapshots, tables
from qfix.problems.model import CATALOGUE

PASSES = (header, extensions, tables, refcounts, snapshots, bitmaps)

__all__ = ["CATALOGUE", "PASSES"]
