"""The options of the command line, and which of them go together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from qfix.modes.options import ALIASES, LEVELS
from qfix.numbers import number

if TYPE_CHECKING:
    from collections.abc import Callable

MODES = {
    "info": ("qfix.modes.info", "info"),
    "check": ("qfix.modes.check", "check"),
    "error": ("qfix.modes.error", "error"),
    "dump": ("qfix.modes.dump", "dump"),
    "edit": ("qfix.modes.edit", "edit"),
    "copy": ("qfix.modes.copy", "copy"),
}
CHANGING = ("edit", "copy")
"""The modes that change an image."""
ACTS = {
    "fix": ("qfix.modes.repair", "repair"),
    "apply": ("qfix.modes.snapshot", "snapshot"),
    "delete": ("qfix.modes.snapshot", "snapshot"),
    "exclude": ("qfix.modes.snapshot", "snapshot"),
    "drop_bitmap": ("qfix.modes.bitmap", "drop"),
    "mark": ("qfix.modes.mark", "mark"),
    "clean": ("qfix.modes.mark", "mark"),
    "undo": ("qfix.modes.history", "history"),
    "redo": ("qfix.modes.history", "history"),
    "resume": ("qfix.modes.history", "history"),
}
"""What changes an image: all of them options of -m check, one at a time."""
SNAPSHOTS = ("apply", "delete", "exclude")
"""What --fix goes with: the repair is made first."""

EDITS = ("sets", "add_extension", "remove_extension", "set_feature", "clear_feature")
"""What an edit changes by name; each may be given several times."""
BELONGS = {
    "only": ("check", "error", "dump"),
    "snapshot": ("check", "error", "dump"),
    "flags": ("check", "error", "dump"),
    "prealloc": ("info",),
    "exit_codes": ("check", "error"),
    **dict.fromkeys(ACTS, ("check",)),
    "offset": CHANGING,
    "value": ("edit",),
    "width": CHANGING,
    "expect": ("edit",),
    **dict.fromkeys(EDITS, ("edit",)),
    "new_backing": ("edit",),
    "no_backing": ("edit",),
    "source": ("copy",),
    "file": ("copy",),
    "no_undo": ("copy",),
    "metadata": ("copy",),
    "anonymize": ("copy",),
    "restore_metadata": ("copy",),
}
NEEDS = {
    "lossy": ("fix",),
    "dry_run": ("fix", *SNAPSHOTS, "drop_bitmap", "mark", "clean", *CHANGING),
    "yes": ("fix", *SNAPSHOTS, "drop_bitmap", "mark", "clean", *CHANGING),
    "force": ("clean", "undo", "redo", "resume"),
    "anonymize": ("metadata",),
}
"""Options that mean something only beside one of some others, or in a mode that changes."""
SHOWN = ("only", "snapshot", "flags", "header")
"""What chooses or adds to what a look shows; a change shows all that it does."""
DANGEROUS = (
    *ACTS,
    *("lossy", "yes", "force", "offset", "value", "width", "expect"),
    *EDITS,
    *("new_backing", "no_backing", "source", "file", "no_undo", "restore_metadata"),
)
SECTIONS = ("snapshot", "refcount", "all")


SWITCHES = (
    click.option(
        "-m",
        "--mode",
        type=click.Choice(list(MODES)),
        default="check",
        show_default=True,
        help="What to do.",
    ),
    click.option(
        "-o",
        "--only",
        metavar="SECTIONS",
        help="Show these sections only: snapshot, refcount, all; dump has more, see the README.",
    ),
    click.option(
        "-s",
        "--snapshot",
        metavar="SNAP",
        help="Show these tables only: active, inactive, all, an id, a name or snapshot[N].",
    ),
    click.option(
        "-b", "--base", is_flag=True, help="Do not look whether the backing file is there."
    ),
    click.option("-f", "--flags", is_flag=True, help="Show the flags of table entries."),
    click.option(
        "-H", "--header", is_flag=True, help="Show the header's fields with their offsets."
    ),
    click.option(
        "-p", "--prealloc", is_flag=True, help="Show how the image was preallocated (info)."
    ),
    click.option("-l", "--lock", is_flag=True, help="Hold a lock against writers while reading."),
    click.option(
        "-U",
        "--force-share",
        is_flag=True,
        help="Read an image that another process writes to; the result is unreliable.",
    ),
    click.option(
        "--fix",
        "-R",
        "--repair",
        "fix",
        type=click.Choice([*LEVELS, *ALIASES]),
        default=None,
        help="Repair: leaks, errors (refcounts and COPIED flags), reuse (clusters with two users)"
        " or all of it.  [default: none]",
    ),
    click.option(
        "--lossy",
        is_flag=True,
        help="Let a repair give up what it can't save, and guess; each loss is listed.",
    ),
    click.option(
        "-A",
        "--apply",
        metavar="SNAP",
        help="Revert the active layer to a snapshot: an id, a name or snapshot[N].",
    ),
    click.option("-D", "--delete", metavar="SNAP", help="Delete a snapshot, or all of them."),
    click.option("-E", "--exclude", metavar="SNAP", help="Delete all snapshots but this one."),
    click.option(
        "--drop-bitmap",
        metavar="NAME",
        multiple=True,
        help="Drop a bitmap, or all of them; the next backup must then be a full one.",
    ),
    click.option("-M", "--mark", type=click.Choice(["dirty", "corrupt"]), help="Set a mark."),
    click.option("-C", "--clean", type=click.Choice(["dirty", "corrupt"]), help="Clear a mark."),
    click.option(
        "-n", "--dry-run", is_flag=True, help="Show what would be changed; write nothing."
    ),
    click.option(
        "--journal",
        metavar="PATH",
        type=click.Path(),
        help="Where the journal is, a file or a folder.  [default: IMAGE.qfix-journal]",
    ),
    click.option("--undo", is_flag=True, help="Take back the last change, byte for byte."),
    click.option("--redo", is_flag=True, help="Take back the last --undo."),
    click.option("--resume", is_flag=True, help="Finish a change that was interrupted."),
    click.option(
        "--yes", is_flag=True, help="Answer the question that a change asks on a terminal."
    ),
    click.option("--force", is_flag=True, help="Override a refusal that names this option."),
    click.option(
        "-O", "--offset", type=number, metavar="OFFSET", help="Where to write (edit, copy)."
    ),
    click.option("-V", "--value", type=number, metavar="VALUE", help="What to write (edit)."),
    click.option(
        "-w",
        "--width",
        type=number,
        metavar="BYTES",
        help="How many bytes: 1, 2, 4 or 8 for edit (big-endian; else 8), any number for copy.",
    ),
    click.option(
        "--set",
        "sets",
        metavar="NAME=VALUE",
        multiple=True,
        help="Edit by name, as dump prints it: header.l1_size=16, l2[69][674]=0xb920f0000. An entry"
        " keeps its flags unless VALUE has some, or is VALUE:FLAGS (copied+zero+compressed, none).",
    ),
    click.option(
        "--expect",
        metavar="OLD",
        multiple=True,
        help="Refuse the edit if the old value is another one; one for each edit, in order.",
    ),
    click.option(
        "--add-extension",
        metavar="MAGIC=TEXT|@FILE",
        multiple=True,
        help="Add a header extension (edit); a TEXT that begins with @ is written @@.",
    ),
    click.option(
        "--remove-extension",
        metavar="MAGIC|INDEX",
        multiple=True,
        help="Remove a header extension (edit); numbers below 65536 are its index, from 0.",
    ),
    click.option(
        "--set-feature",
        metavar="WORD:BIT",
        multiple=True,
        help="Set a feature bit (edit), e.g. incompatible:4.",
    ),
    click.option(
        "--clear-feature",
        metavar="WORD:BIT",
        multiple=True,
        help="Clear a feature bit (edit), e.g. autoclear:0.",
    ),
    click.option(
        "--backing",
        "new_backing",
        metavar="FILE[:FORMAT]",
        help="Name another backing file (edit); nothing is opened, as with qemu-img rebase -u. What"
        " stands behind the last colon is FORMAT if QEMU has a format of that name (raw, qcow2 and"
        " so on); without it the format that the image names stays.",
    ),
    click.option("--no-backing", is_flag=True, help="Name no backing file any more (edit)."),
    click.option(
        "-S",
        "--src",
        "source",
        type=number,
        metavar="OFFSET",
        help="Copy from here.  [default with -F: the offset that is copied to]",
    ),
    click.option(
        "-F",
        "--file",
        metavar="FILE",
        type=click.Path(),
        help="Copy from this file.  [default: the image itself]",
    ),
    click.option(
        "--no-undo",
        is_flag=True,
        help="Keep no journal of a copy, where there is no room for one: it can't be taken back.",
    ),
    click.option(
        "--metadata",
        metavar="OUT",
        type=click.Path(),
        help="Write a copy of the metadata alone, without guest data, to a new file (copy).",
    ),
    click.option(
        "--anonymize", is_flag=True, help="Leave names of files, snapshots and bitmaps out of it."
    ),
    click.option(
        "--restore-metadata",
        metavar="IN",
        type=click.Path(),
        help="Put the metadata of such a copy back (copy).",
    ),
    click.option("--explain", metavar="CODE", help="Say what a finding means and what to do."),
    click.option(
        "--output",
        type=click.Choice(["text", "json"]),
        default="text",
        show_default=True,
        help="Text for people or JSON for programs.",
    ),
    click.option(
        "--color",
        type=click.Choice(["auto", "always", "never"]),
        default="auto",
        show_default=True,
        help="Whether to use colour.",
    ),
    click.option(
        "-d",
        "color_word",
        type=click.Choice(["none", "off", "color"]),
        help="The same, as qcow2-dump spells it.",
    ),
    click.option("-q", "--quiet", count=True, help="Say less."),
    click.option("-v", "--verbose", count=True, help="Say more."),
    click.option(
        "--exit-codes",
        type=click.Choice(["qfix", "qemu-img"]),
        help="Whose exit statuses to use.  [default: qfix]",
    ),
)


def with_switches(function: Callable[..., int]) -> Callable[..., int]:
    """Give a command all options, in the order of `SWITCHES`."""
    for switch in reversed(SWITCHES):
        function = switch(function)
    return function
