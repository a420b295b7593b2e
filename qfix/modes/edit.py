"""-m edit: numbers by offset or by name, header extensions, features and the backing file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qfix.edits.plan import plan_edit
from qfix.edits.wanted import (
    Wanted,
    backing_of,
    extension_of,
    feature_of,
    magic_of,
    poke_of,
    settings_of,
)
from qfix.errors import UsageError
from qfix.modes.carry import carry_out
from qfix.report.rows import shell_word

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qfix.examine import Diagnosis
    from qfix.modes.options import Options

NOTHING = (
    "-m edit: nothing to edit was given; there is -O OFFSET -V VALUE, --set NAME=VALUE,"
    " --set-feature, --clear-feature, --add-extension, --remove-extension, --backing and"
    " --no-backing"
)


def edit(path: str, options: Options) -> Diagnosis:
    """Make one change of all that is asked for, although the image may get worse by it."""
    if options.several:
        raise UsageError("-m edit changes one image at a time")
    wanted = _wanted(options)
    asked = " ".join(("-m edit", *_words(options)))
    return carry_out(path, options, asked, lambda draft: plan_edit(draft, wanted), deliberate=True)


def _wanted(options: Options) -> Wanted:
    poke = poke_of(options.offset, options.value, options.width, options.expect)
    if options.expect and poke is None and not options.sets:
        raise UsageError("--expect belongs to --set or -O: it tells their old values")
    wanted = Wanted(
        poke,
        settings_of(options.sets, () if poke else options.expect),
        (
            *(feature_of(text, on=True) for text in options.set_feature),
            *(feature_of(text, on=False) for text in options.clear_feature),
        ),
        tuple(magic_of(text) for text in options.remove_extension),
        tuple(extension_of(text) for text in options.add_extension),
        backing_of(options.new_backing, none=options.no_backing),
    )
    if not any(wanted):
        raise UsageError(NOTHING)
    if poke and any(wanted[1:]):
        raise UsageError("-O stands alone: several edits in one change go by name, with --set")
    for feature in wanted.features:
        if feature._replace(on=not feature.on) in wanted.features:
            raise UsageError("the same feature bit can't be both set and cleared")
    return wanted


def _words(options: Options) -> Iterator[str]:
    """Yield the options of an edit as a shell takes them."""
    for option, number in (("-O", options.offset), ("-V", options.value)):
        if number is not None:
            yield f"{option} {number:#x}"
    if options.width is not None:
        yield f"-w {options.width}"
    for option, given in (
        ("--set", options.sets),
        ("--expect", options.expect),
        ("--set-feature", options.set_feature),
        ("--clear-feature", options.clear_feature),
        ("--remove-extension", options.remove_extension),
        ("--add-extension", options.add_extension),
        ("--backing", () if options.new_backing is None else (options.new_backing,)),
    ):
        for word in given:
            yield f"{option} {shell_word(word)}"
    if options.no_backing:
        yield "--no-backing"
