"""What can be wrong: problems, one module a pass, and findings of them."""

from qfix.problems.model import Findings, Problem, Safety, Severity

__all__ = ["Findings", "Problem", "Safety", "Severity"]
