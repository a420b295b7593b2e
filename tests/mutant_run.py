"""Runs the program on one mutant, in this process, and tells what is wrong with what it did.

A mutant may be as damaged as it likes: what counts is that the program says so, in the documented
form and in time, and leaves the file alone.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mutations import Base, Mutant

Main = Callable[[list[str]], int]

IMAGE_STATUSES = frozenset({0, 1, 2, 3, 4, 5, 6, 8})
CLEAN = "No errors were found on the image."
COUNTS = (
    *("check-errors", "image-end-offset", "corruptions", "leaks", "corruptions-fixed"),
    *("leaks-fixed", "total-clusters", "allocated-clusters", "fragmented-clusters"),
    "compressed-clusters",
)
RECORD_KEYS = frozenset({"schema", "status", "verdict", "in-use", "findings"})
FINDING_KEYS = frozenset(
    {
        *("code", "name", "severity", "safety", "structure", "first", "count", "host-offset"),
        *("guest-ranges", "message", "command"),
    }
)
CONTROL = re.compile(r"[^\t\n\x20-\x7e\xa0-\U0010ffff]")
RUNS = {
    "check": ("-m", "check", "--output", "json"),
    "error": ("-m", "error"),
    "info": ("-m", "info"),
    "check as text": ("-m", "check"),
}
DUMPS = {
    "dump": ("-m", "dump"),
    "dump as JSON": ("-m", "dump", "--output", "json", "-v"),
}
"""Runs that may take as long as there are lines, so are cut off when the time is over."""
TIME_LIMIT_S = 5.0
MEMORY_LIMIT = 1 << 30
QEMU_TIME_LIMIT_S = 10
QEMU_MEMORY_LIMIT = 2 << 30
FILE_LIMIT = 8 << 30
FILES_LIMIT = 128


class HangError(BaseException):
    """The time for one mutant is over; not an Exception, so that nothing takes it for one."""


@dataclass(frozen=True, slots=True)
class Output:
    """What one call of the program gave back; *status* is None where it raised."""

    status: int | None
    stdout: str
    stderr: str
    raised: str = ""

    def complaints(self) -> Iterator[str]:
        """Yield what no image may cause."""
        if self.raised:
            yield self.raised
        elif self.status not in IMAGE_STATUSES:
            yield f"status {self.status}: {self.stderr.strip()[-600:]!r}"
        if "Traceback" in self.stdout or "Traceback" in self.stderr:
            yield f"traceback printed: {self.stderr.strip()[-600:]!r}"
        if CONTROL.search(self.stdout) or CONTROL.search(self.stderr):
            yield "control characters in the output"


class Sink(io.BytesIO):
    """What a program wrote, still there when the stream over it is closed."""

    def close(self) -> None:
        """Keep the bytes."""


def load_main() -> Main:
    """Import the program from this checkout."""
    root = str(Path(__file__).resolve().parents[1])
    if root not in sys.path:
        sys.path.insert(0, root)
    main: Main = importlib.import_module("qfix.cli").main
    return main


def set_limits() -> None:
    """Bound what this process and its children may take, and raise `HangError` on an alarm."""
    _limit(resource.RLIMIT_AS, MEMORY_LIMIT)
    _limit(resource.RLIMIT_FSIZE, FILE_LIMIT)
    _limit(resource.RLIMIT_NOFILE, FILES_LIMIT)  # ends qemu-img in a loop of backing files
    _limit(resource.RLIMIT_CORE, 0)
    signal.signal(signal.SIGALRM, _on_alarm)


def _limit(kind: int, value: int) -> None:
    """Lower or raise a soft limit as far as the hard one allows."""
    hard = resource.getrlimit(kind)[1]
    soft = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (soft, hard))


def _on_alarm(_number: int, _frame: object) -> None:
    raise HangError


@contextmanager
def _alarm() -> Iterator[None]:
    """Raise `HangError` after the time limit, and again each second if it got lost."""
    signal.setitimer(signal.ITIMER_REAL, TIME_LIMIT_S, 1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def call(main: Main, *arguments: str) -> Output:
    """Call the program as a shell would, with strict UTF-8 streams that are no terminal."""
    raw_out, raw_err = Sink(), Sink()
    out = io.TextIOWrapper(raw_out, "utf-8", "strict", write_through=True)
    err = io.TextIOWrapper(raw_err, "utf-8", "backslashreplace", write_through=True)
    status, raised = None, ""
    with redirect_stdout(out), redirect_stderr(err):
        try:
            status = main(list(arguments))
        except (HangError, KeyboardInterrupt):
            raise
        except BaseException as error:  # noqa: BLE001 - whatever gets out is the finding
            raised = describe(error)
    texts = raw_out.getvalue().decode(), raw_err.getvalue().decode()
    raw_out.truncate(0)  # click remembers the streams that it has written to
    raw_err.truncate(0)
    return Output(status, *texts, raised)


def describe(error: BaseException) -> str:
    """Return an exception in one line, with the last places it passed."""
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    places = " < ".join(
        f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in reversed(frames)
    )
    return f"{type(error).__name__}: {str(error)[:200]!r} at {places}"


def place(mutant: Mutant, folder: Path) -> Path:
    """Write a mutant below *folder*, over the last one of its base; return its path."""
    home = folder / mutant.base.name.replace("/", "_")
    if not home.exists():
        home.mkdir()
        for companion in mutant.base.companions:
            (home / companion.name).symlink_to(companion)
    path = home / "image"
    with path.open("r+b" if path.exists() else "w+b", buffering=0) as file:
        file.truncate(len(mutant.data))
        file.write(mutant.data)
        file.truncate(mutant.size)
    return path


def judge(main: Main, mutant: Mutant, path: Path) -> tuple[list[str], dict[str, Any]]:
    """Run all modes on a mutant in its place; return what is wrong and the record.

    The record is empty where the program came to no verdict.
    """
    before, beside = path.stat(), sorted(path.parent.iterdir())
    outputs, wrong = _run_modes(main, str(path))
    for run, output in outputs.items():
        wrong += [f"{run}: {complaint}" for complaint in output.complaints()]
    record: dict[str, Any] = {}
    try:
        record = json.loads(outputs["check"].stdout) if "check" in outputs else {}
        wrong += _contradictions(record, outputs)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        wrong.append(f"check: bad JSON, {error!r:.300}: {outputs['check'].stdout[-200:]!r}")
    after = path.stat()
    if (before.st_ino, before.st_size, before.st_mtime_ns) != (
        *(after.st_ino, after.st_size, after.st_mtime_ns),
    ) or not _holds(path, mutant):
        wrong.append("the image file changed")
    if sorted(path.parent.iterdir()) != beside:
        wrong.append("a file appeared or went beside the image")
    told = "check" in outputs and outputs["check"].status in IMAGE_STATUSES
    return wrong, record if told else {}


def _run_modes(main: Main, path: str) -> tuple[dict[str, Output], list[str]]:
    """Run each mode, check as text only where it finds nothing, and complain about the time."""
    outputs: dict[str, Output] = {}
    run = ""
    started = time.perf_counter()
    try:
        with _alarm():
            for run, arguments in RUNS.items():
                if run != "check as text" or outputs["check"].status == 0:
                    outputs[run] = call(main, *arguments, path)
    except HangError as error:
        return outputs, [f"{run}: over {TIME_LIMIT_S:g} s, {describe(error)}"]
    elapsed = time.perf_counter() - started
    with suppress(HangError), _alarm():
        for run, arguments in DUMPS.items():
            outputs[run] = call(main, *arguments, path)
    return outputs, [f"took {elapsed:.1f} s"] if elapsed > TIME_LIMIT_S else []


def _holds(path: Path, mutant: Mutant) -> bool:
    """Tell whether the file still has the mutant's bytes (its hole is not looked at)."""
    with path.open("rb", buffering=0) as file:
        return file.read(len(mutant.data)) == mutant.data


def _contradictions(record: dict[str, Any], outputs: dict[str, Output]) -> Iterator[str]:
    """Yield where the record, the exit statuses and the text do not fit together."""
    status = outputs["check"].status if "check" in outputs else None
    if status not in IMAGE_STATUSES:
        return
    yield from _record_complaints(record, status)
    text, error = outputs.get("check as text"), outputs.get("error")
    if text and (text.status != 0 or CLEAN not in text.stdout):
        yield f"check: clean as JSON, but as text {text.status}: {text.stdout[-200:]!r}"
    if error and error.status in IMAGE_STATUSES and error.status != status:
        yield f"error: status {error.status}, but check gave {status}"


def _record_complaints(record: dict[str, Any], status: int) -> Iterator[str]:
    """Yield what is missing in a record or contradicts the exit status."""
    wrong = [key for key in COUNTS if type(record.get(key)) is not int]
    wrong += [key for key in ("filename", "format") if type(record.get(key)) is not str]
    wrong += RECORD_KEYS - record["qfix"].keys()
    if wrong:
        yield f"check: JSON without {', '.join(sorted(wrong))}, or of a wrong type"
    if record["qfix"].get("status") != status:
        yield f"check: exit status {status}, but {record['qfix'].get('status')} in JSON"
    missing = {key for row in record["qfix"]["findings"] for key in FINDING_KEYS - row.keys()}
    if missing:
        yield f"check: finding without {', '.join(sorted(missing))}"


def compare_with_qemu(base: Base, path: Path, record: dict[str, Any]) -> str | None:
    """Return how qemu-img's counts differ ("" if not at all), None where it gives no counts."""
    counted = _qemu_check(base, path)
    if counted is None or not record:
        return None
    keys = {*COUNTS, *(key for key, value in counted.items() if type(value) is int)}
    return ", ".join(
        f"{key} {record.get(key, 0)} for {counted.get(key, 0)}"
        for key in sorted(keys)
        if record.get(key, 0) != counted.get(key, 0)
    )


def _qemu_check(base: Base, path: Path) -> dict[str, Any] | None:
    """Return what ``qemu-img check`` prints as JSON, None where it refuses, crashes or hangs."""
    image = ["-f", "qcow2", str(path)]
    if base.encrypted:
        options = f"driver=qcow2,file.filename={path},encrypt.key-secret=key"
        image = ["--object", "secret,id=key,data=secret", "--image-opts", options]
    _limit(resource.RLIMIT_AS, QEMU_MEMORY_LIMIT)
    try:
        done = subprocess.run(
            ["qemu-img", "check", "--output=json", *image],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=path.parent,
            timeout=QEMU_TIME_LIMIT_S,
            check=False,
        )
        counted: dict[str, Any] = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError):
        return None
    finally:
        _limit(resource.RLIMIT_AS, MEMORY_LIMIT)
    return counted


def keep(mutant: Mutant, folder: Path, name: str) -> None:
    """Save a mutant under *folder* with a note of what was done to it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.qcow2"
    path.write_bytes(mutant.data)
    os.truncate(path, mutant.size)
    (folder / f"{name}.txt").write_text("\n".join((mutant.base.name, *mutant.steps, "")))
