"""The rounds of a plan: the lowest pass that helps, then a new look, until nothing helps more."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qfix.change.draft import Draft

    Planner = Callable[[Draft], bool]
    """Writes into a draft what it can mend of what was found; tells whether it planned anything."""

MOST_ROUNDS = 64


def run_rounds(draft: Draft, passes: Sequence[Planner]) -> int:
    """Run the first of *passes* that plans something, look again, and so on; return the rounds.

    A pass that brings back what was found earlier is not asked again: passes that undo each other's
    work would go on without end.
    """
    rounds = 0
    idle: set[int] = set()
    seen = {_signature(draft)}
    while rounds < MOST_ROUNDS:
        chosen = next((at for at, ask in enumerate(passes) if at not in idle and ask(draft)), None)
        if chosen is None:
            break
        draft.examine()
        found = _signature(draft)
        if found in seen:
            idle.add(chosen)
        seen.add(found)
        rounds += 1
    return rounds


def _signature(draft: Draft) -> tuple[tuple[str, int], ...]:
    return tuple((found.problem.code, found.units) for found in draft.now.findings)
