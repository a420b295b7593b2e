"""-m copy: bytes copied into an image by the one road, and copies of its metadata, out and back."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from qfix.errors import JournalFullError, UsageError
from qfix.modes.carry import carry_out
from qfix.modes.look import note
from qfix.report.rows import quoted

if TYPE_CHECKING:
    from qfix.examine import Diagnosis
    from qfix.modes.options import Options

FORMS = (
    "-m copy needs one of: -O OFFSET -S OFFSET -w BYTES (inside the image);"
    " -O OFFSET -w BYTES -F FILE (from another file, from the same offset unless -S names another);"
    " --metadata OUT; --restore-metadata IN"
)
OR_WITHOUT = "or go without one: --no-undo, which nothing takes back"
BYTES = {"offset": "-O", "source": "-S", "width": "-w", "file": "-F"}


def copy(path: str, options: Options) -> Diagnosis:
    """Copy bytes into the image, or its metadata to or from a file of its own."""
    _refuse_mixed(options)
    if options.metadata is not None:
        from qfix.modes.metadata import metadata

        return metadata(path, options)
    try:
        if options.restore_metadata is not None:
            from qfix.modes.metadata import restore

            return restore(path, options)
        return _copy_bytes(path, options)
    except JournalFullError as error:
        raise JournalFullError(f"{error}; {OR_WITHOUT}") from error


def _refuse_mixed(options: Options) -> None:
    """Raise UsageError for options of different forms, and where one is missing."""
    if options.several:
        raise UsageError("-m copy takes one image at a time")
    given = [word for name, word in BYTES.items() if getattr(options, name) is not None]
    out, back = options.metadata is not None, options.restore_metadata is not None
    if out and back:
        raise UsageError("--metadata and --restore-metadata exclude each other")
    whole = "--metadata" if out else "--restore-metadata"
    if (out or back) and given:
        raise UsageError(f"{given[0]} does not go with {whole}, which copies at the same offsets")
    idle = ("no_undo", "yes", "journal")
    for name in (name for name in idle if out and getattr(options, name)):
        word = name.replace("_", "-")
        raise UsageError(f"--{word} does not go with --metadata, which changes no image")
    if out or back:
        return
    if not given:
        raise UsageError(FORMS)
    missing = [word for word in ("-O", "-w") if word not in given]
    if "-S" not in given and "-F" not in given:
        missing.append("-S")
    if missing:
        raise UsageError(f"{' and '.join(missing)} missing; {FORMS}")


def _copy_bytes(path: str, options: Options) -> Diagnosis:
    from qfix.edits.bytes_copy import Wanted, plan_copy, source_file

    target, length = options.offset or 0, options.width or 0
    source = target if options.source is None else options.source
    with ExitStack() as stack:
        opened = options.file and stack.enter_context(source_file(options.file, path, note))
        plan = partial(plan_copy, wanted=Wanted(target, source, length, opened or None))
        asked = f"-m copy -O {target:#x} -S {source:#x} -w {length:#x}"
        asked += f" -F {quoted(options.file)}" if options.file else ""
        asked += " --no-undo" if options.no_undo else ""
        return carry_out(path, options, asked, plan, deliberate=True, careful=True)
