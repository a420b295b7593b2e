"""The catalogue: every kind of thing that can be wrong, by code, and findings of it."""

from qfix.problems import bitmaps, extensions, header, refcounts, snapshots, tables
from qfix.problems.model import CATALOGUE, Findings, Problem, Safety, Severity

__all__ = [
    "CATALOGUE",
    "Findings",
    "Problem",
    "Safety",
    "Severity",
    "bitmaps",
    "extensions",
    "header",
    "refcounts",
    "snapshots",
    "tables",
]
