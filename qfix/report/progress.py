"""Progress of long work, on a terminal only, in the form that programs already parse."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE_S = 1.0
INTERVAL_S = 0.2
WIDTH = len("    (100.00/100%)")


@contextmanager
def progress() -> Iterator[Callable[[float], None] | None]:
    """Give a function that takes the share of the work done; None where nobody would see it.

    It writes to standard error once the work has taken a second; the line is wiped at the end.
    """
    if not sys.stderr.isatty():
        yield None
        return
    start = last = monotonic()
    shown = False

    def tell(share: float) -> None:
        nonlocal last, shown
        now = monotonic()
        if now - start > PATIENCE_S and now - last > INTERVAL_S:
            last, shown = now, True
            click.echo(f"    ({100 * share:.2f}/100%)\r", nl=False, err=True)

    try:
        yield tell
    finally:
        if shown:
            click.echo(" " * WIDTH + "\r", nl=False, err=True)
