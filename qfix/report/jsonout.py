"""The JSON forms: one object an image, always with the same keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qfix.report.rows import as_json
from qfix.report.summary import qemu_counts, statistics

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qfix.errors import QfixError, Status
    from qfix.examine import Diagnosis
    from qfix.problems import Findings

SCHEMA = 1
COUNTS = (
    "check-errors",
    "image-end-offset",
    "corruptions",
    "leaks",
    "corruptions-fixed",
    "leaks-fixed",
    "total-clusters",
    "allocated-clusters",
    "fragmented-clusters",
    "compressed-clusters",
)


def record(
    path: str,
    diagnosis: Diagnosis,
    shown: Iterable[Findings],
    *,
    in_use: bool,
    interrupted: bool = False,
) -> dict[str, Any]:
    """Return what check and error give of an image that could be opened."""
    kind = "qcow2" if diagnosis.head.header else "raw"
    findings = list(shown)
    rows = [row for found in findings for row in as_json(found, diagnosis.image, path)]
    return {
        "filename": path,
        "format": kind,
        **qemu_counts(diagnosis),
        "qfix": {
            **_verdict(diagnosis.status, in_use=in_use),
            "interrupted": interrupted,
            "findings": rows,
            "findings-omitted": sum(found.dropped for found in findings),
            "statistics": statistics(diagnosis),
            "error": None,
        },
    }


def failure(path: str, error: QfixError) -> dict[str, Any]:
    """Return the same record of a file that could not be read."""
    counts = dict.fromkeys(COUNTS, 0) | {"check-errors": 1}
    return {
        "filename": path,
        "format": "unknown",
        **counts,
        "qfix": {
            **_verdict(error.status, in_use=error.status.verdict == "in-use"),
            "interrupted": False,
            "findings": [],
            "findings-omitted": 0,
            "statistics": None,
            "error": str(error),
        },
    }


def _verdict(status: Status, *, in_use: bool) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "status": int(status),
        "verdict": status.verdict,
        "in-use": in_use,
    }
