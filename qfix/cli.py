"""The command line: options, the dispatch table, and exceptions to exit statuses."""

from __future__ import annotations

import importlib
import io
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from qfix import __version__
from qfix.errors import QfixError, ReadError, Status, UsageError
from qfix.image import printable
from qfix.modes.options import ALIASES, Options
from qfix.switches import (
    ACTS,
    BELONGS,
    CHANGING,
    DANGEROUS,
    EDITS,
    MODES,
    NEEDS,
    SECTIONS,
    SHOWN,
    SNAPSHOTS,
    with_switches,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qfix.examine import Diagnosis

PIPE_CLOSED = 141
MOST_MESSAGE = 2000
QEMU_STATUS = {
    Status.GOOD: 0,
    Status.CORRUPT_MARK: 0,
    Status.LEAKS: 3,
    Status.COPIED: 2,
    Status.REFCOUNTS: 2,
    Status.METADATA: 2,
    Status.SNAPSHOTS: 2,
}
NO_CHECKS = 63


class Command(click.Command):
    """The command whose help groups options as safe and dangerous."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, those that change an image apart from the others."""
        for title, dangerous in (
            ("Safe options (none of them changes an image)", False),
            ("Dangerous options (they change an image; -n shows what they would do)", True),
        ):
            items = [item for item in self.get_params(ctx) if (item.name in DANGEROUS) is dangerous]
            rows = [row for item in items if (row := item.get_help_record(ctx))]
            with formatter.section(title):
                formatter.write_dl(rows)


@click.command(
    cls=Command,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit status: 0 good, 1 leaks, 2 COPIED flags, 3 corrupt mark, 4 refcounts,"
    " 5 snapshot table, 6 metadata, 8 can't be checked, 64 usage, 66 missing, 70 defect of qfix,"
    " 74 I/O error, 75 in use, 77 no permission.",
)
@click.argument("images", nargs=-1, metavar="IMAGE...", type=click.Path())
@with_switches
@click.version_option(__version__, "--version", prog_name="qfix")
def command(images: tuple[str, ...], **given: Any) -> int:
    """Inspect, check and repair qcow2 disk images, offline and without QEMU.

    Looks at each IMAGE, says in plain words what is wrong, where, and what that means to the
    guest. Nothing is written unless a dangerous option asks for it; a change is rehearsed on the
    whole image before it is made, and can be taken back.
    """
    if given["explain"] is not None:
        from qfix.modes.explain import explain

        return explain(given["explain"])
    if not images:
        raise UsageError("no image given; see `qfix --help`")
    _refuse_foreign(given)
    _set_color(given)
    options = Options(
        mode=given["mode"],
        only=_sections(given["only"], given["mode"]),
        snapshot=given["snapshot"] or ("" if given["mode"] == "dump" else "all"),
        base=given["base"],
        flags=given["flags"],
        lock=given["lock"],
        force_share=given["force_share"],
        prealloc=given["prealloc"],
        header=given["header"],
        output=given["output"],
        verbosity=given["verbose"] - given["quiet"],
        exit_codes=given["exit_codes"] or "qfix",
        several=len(images) > 1,
        fix=ALIASES.get(given["fix"], given["fix"]) or "none",
        lossy=given["lossy"],
        **{name: given[name] for name in SNAPSHOTS},
        drop_bitmap=given["drop_bitmap"],
        mark=given["mark"],
        clean=given["clean"],
        dry_run=given["dry_run"],
        journal=given["journal"],
        history=next((name for name in ("undo", "redo", "resume") if given[name]), ""),
        yes=given["yes"],
        force=given["force"],
        offset=given["offset"],
        value=given["value"],
        width=given["width"],
        expect=given["expect"],
        **{name: given[name] for name in EDITS},
        new_backing=given["new_backing"],
        no_backing=given["no_backing"],
        source=given["source"],
        file=given["file"],
        no_undo=given["no_undo"],
        metadata=given["metadata"],
        anonymize=given["anonymize"],
        restore_metadata=given["restore_metadata"],
    )
    return run_images(images, options)


def _refuse_foreign(given: dict[str, Any]) -> None:
    """Raise UsageError for an option that the mode does not take."""
    for name, modes in BELONGS.items():
        if _is_given(given[name]) and given["mode"] not in modes:
            raise UsageError(f"{_spelled(name)} belongs to -m {' or -m '.join(modes)}")
    if given["lock"] and given["force_share"]:
        raise UsageError("--lock and --force-share exclude each other")
    asked = [name for name in ACTS if given[name] and given[name] != "none"]
    several = [name for name in asked if name != "fix"] if {*SNAPSHOTS} & {*asked} else asked
    if len(several) > 1:
        raise UsageError(f"{_spelled(several[0])} and {_spelled(several[1])} exclude each other")
    changes = [*asked, *([given["mode"]] if given["mode"] in CHANGING else ())]
    for name in SHOWN:
        if changes and _is_given(given[name]):
            raise UsageError(f"{_spelled(name)} does not go with {_spelled(changes[0])}")
    present = {given["mode"], *(name for name, value in given.items() if _is_given(value))}
    for name, beside in NEEDS.items():
        if _is_given(given[name]) and not present.intersection(beside):
            raise UsageError(f"{_spelled(name)} belongs to {' or '.join(map(_spelled, beside))}")
    only_reads = given["dry_run"] or given["metadata"] is not None
    if changes and given["force_share"] and not only_reads:
        raise UsageError("--force-share can't be used to change an image; -n shows the plan")


def _is_given(value: object) -> bool:
    return value not in (None, False, (), "none")


def _spelled(name: str) -> str:
    """Return an option, or a mode that changes an image, as the command line has it."""
    names = {"sets": "set", "new_backing": "backing", "source": "src"}
    if name in CHANGING:
        return f"-m {name}"
    return "--" + names.get(name, name).replace("_", "-")


def _sections(only: str | None, mode: str) -> str:
    """Return the sections that -o asks for; those of a dump are its own to know."""
    only = "all" if only is None else only
    if mode == "dump":
        return only
    for section in only.split(","):
        if section not in SECTIONS:
            raise UsageError(f"unknown section {section!r}; known: {', '.join(SECTIONS)}")
    return only


def _set_color(given: dict[str, Any]) -> None:
    word = {"none": "never", "off": "never", "color": "always"}.get(given["color_word"])
    wanted = word or given["color"]
    context = click.get_current_context()
    if wanted == "auto":
        context.color = False if os.environ.get("NO_COLOR") else None
    else:
        context.color = wanted == "always"


def run_images(images: Sequence[str], options: Options) -> int:
    """Run the mode on each image; return the gravest status."""
    module, name = ACTS[act] if (act := _act(options)) else MODES[options.mode]
    run_mode: Callable[[str, Options], Diagnosis] = getattr(importlib.import_module(module), name)
    statuses: list[Status] = []
    codes: list[int] = []
    for path in images:
        status, code = _run_one(run_mode, path, options)
        statuses.append(status)
        codes.append(code)
    if options.several and not options.json and options.mode == "check":
        counts = {status.verdict: statuses.count(status) for status in sorted(set(statuses))}
        parts = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
        click.echo(f"{len(statuses)} images: {parts}")
    if options.exit_codes == "qemu-img":
        return max(codes, key=lambda code: (code == 1, code))
    return max(statuses, key=lambda status: status.gravity)


def _act(options: Options) -> str:
    """Return which change is asked for, if one is."""
    if any(getattr(options, name) is not None for name in SNAPSHOTS):
        return "apply"
    if options.drop_bitmap:
        return "drop_bitmap"
    if options.fix != "none":
        return "fix"
    return options.history or ("mark" if options.mark or options.clean else "")


def _run_one(
    run_mode: Callable[[str, Options], Diagnosis], path: str, options: Options
) -> tuple[Status, int]:
    try:
        diagnosis = run_mode(path, options)
    except MemoryError:
        error: QfixError = ReadError(f"{path}: not enough memory for the clusters of this file")
    except UsageError:
        raise
    except QfixError as raised:
        error = raised
    else:
        status = Status.GOOD if options.mode == "info" and diagnosis.image else diagnosis.status
        return status, _qemu_status(diagnosis)
    if options.json:
        import json

        from qfix.report.jsonout import failure

        click.echo(json.dumps(failure(path, error), indent=None if options.several else 4))
    click.echo(f"qfix: {_escaped(str(error))}", err=True)
    return error.status, 1


def _qemu_status(diagnosis: Diagnosis) -> int:
    """Return the status that qemu-img check would end with."""
    if diagnosis.head.header is None:
        return NO_CHECKS
    if diagnosis.recount is None or diagnosis.recount.tally.check_errors:
        return 1
    return QEMU_STATUS.get(diagnosis.status, 1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status; whatever happens, no traceback."""
    _prepare_streams()
    try:
        status = command.main(args=arguments, prog_name="qfix", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.Exit as end:
        status = end.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("", err=True)
        status = Status.INTERRUPTED
    except (BrokenPipeError, SystemExit):  # click turns the one into the other
        _discard_output()
        status = PIPE_CLOSED
    except Exception as error:  # noqa: BLE001  (promise 5: never a traceback)
        status = _failure(error)
    return int(status or 0)


def _failure(error: Exception) -> int:
    """Say what went wrong on standard error; return the status."""
    if isinstance(error, click.UsageError):
        click.echo(f"qfix: {error.format_message()}", err=True)
        return Status.USAGE
    if isinstance(error, QfixError):
        click.echo(f"qfix: {_escaped(str(error))}", err=True)
        return error.status
    if isinstance(error, OSError):
        _discard_output()
        click.echo(f"qfix: the output can't be written: {error.strerror}", err=True)
        return Status.IO_ERROR
    return _defect(error)


def _escaped(message: str) -> str:
    """Return a message with the control characters of file names escaped."""
    return printable(os.fsencode(message), limit=MOST_MESSAGE)


def _prepare_streams() -> None:
    """Make sure that there is something to print to, and that any name can be printed."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _discard_output() -> None:
    """Send what is still to be flushed nowhere, so that nothing complains at exit."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _defect(error: Exception) -> int:
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    place = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else "?"
    click.echo(f"qfix: a defect of qfix: {type(error).__name__}: {error} ({place})", err=True)
    click.echo("qfix: please report it with the image's metadata", err=True)
    return Status.DEFECT
