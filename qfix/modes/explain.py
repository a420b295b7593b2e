"""--explain: what a finding means and what to do, from the catalogue."""

from __future__ import annotations

import click

from qfix.errors import Status, UsageError
from qfix.problems import Safety
from qfix.problems.catalogue import CATALOGUE

SAFETIES = {
    "safe": "can be repaired without losing anything",
    "lossy": "only with a loss or a guess, each of which is listed",
    "manual": "needs a person's decision; no repair does it",
}


def explain(code: str) -> Status:
    """Print one row of the catalogue; raises UsageError for a code that is not in it."""
    problem = CATALOGUE.get(code.upper())
    if problem is None:
        known = ", ".join(sorted(CATALOGUE))
        raise UsageError(f"there is no finding {code!r}; known: {known}")
    click.echo(f"{problem.code} {problem.name}")
    click.echo(f"about:     {problem.structure}, severity {problem.severity.value}")
    click.echo(f"message:   {problem.message}")
    click.echo(f"means:     {problem.meaning}")
    click.echo(f"to do:     {problem.advice}")
    lossy = " --lossy" if problem.safety is Safety.LOSSY else ""
    by = f": qfix --fix {problem.fix}{lossy} IMAGE (-n shows the plan)" if problem.fix else ""
    click.echo(f"repair:    {SAFETIES[problem.safety.value]}{by}")
    click.echo(f"status:    {int(problem.status)} ({problem.status.verdict})")
    return Status.GOOD
