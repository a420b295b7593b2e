"""--fix: a repair by the one road."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qfix.change.road import withheld
from qfix.modes.carry import carry_out
from qfix.repair.passes import plan_repair
from qfix.repair.wanted import Wanted

if TYPE_CHECKING:
    from qfix.examine import Diagnosis
    from qfix.modes.options import Options


def repair(path: str, options: Options) -> Diagnosis:
    """Repair what is asked for, as far as it can be proven; print what was done."""
    wanted = Wanted(options.fix, options.lossy)
    earlier = withheld(path, options.journal)
    return carry_out(path, options, wanted.words, lambda draft: plan_repair(draft, wanted, earlier))
