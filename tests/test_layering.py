"""Imports run one way, and only the modules that own the outside world touch it."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import qfix

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(qfix.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
EACH = pytest.mark.parametrize(
    "path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix()
)
MOST_LINES = 400

# The order of the design, lowest first. `problems` stands before `recount`: the findings of single
# table entries are collected while the tables are counted, so that they are read only once.
ORDER = (
    ("errors",),
    ("numbers",),
    ("arrays",),
    ("layout",),
    ("file",),
    ("locks",),
    ("image",),
    ("problems",),
    ("recount", "guest"),
    ("checks",),
    ("examine",),
    ("inference",),
    ("change",),
    ("repair", "edits"),
    ("snapshots",),
    ("report",),
    ("dump",),
    ("modes",),
    ("switches",),
    ("cli",),
    ("__main__",),
)
RANK = {part: rank for rank, parts in enumerate(ORDER) for part in parts}

FILES = {
    "file.py": "opens the image",
    "locks.py": "reads the kernel's tables of locks in /proc",
    "modes/facts.py": "reads the kernel's table of mounts",
    "cli.py": "puts /dev/null in the place of a pipe that was closed",
    "change/apply.py": "writes to the image",
    "change/journal.py": "makes and looks at the journal, a file of its own",
    "edits/sparse_file.py": "makes the metadata copy, a file of its own",
}
ENVIRONMENT = {"cli.py": "NO_COLOR", "__main__.py": "keeps numpy from starting threads"}
WRITERS = {
    "change/apply.py": "the only one that writes to an image",
    "file.py": "opens an image for it",
    "edits/sparse_file.py": "writes the metadata copy, which it has made itself, and no image",
}
REMOVERS = {"change/journal.py": "removes a journal that it has made itself and that holds nothing"}
DATABASES = {"change/database.py", "change/records.py", "change/rows.py"}
OPENS = {"open", "fdopen", "FileIO", "read_text", "read_bytes", "write_text", "write_bytes"}
WRITES = {
    *("pwrite", "pwritev", "ftruncate", "truncate", "posix_fallocate", "fallocate", "sendfile"),
    *("O_RDWR", "write_bytes", "write_text", "unlink", "rename", "mkdir"),
}


@cache
def parsed(path: Path) -> ast.Module:
    """Return the syntax tree of a module."""
    return ast.parse(path.read_text(encoding="utf-8"))


def place(path: Path) -> str:
    """Return a module's path inside the package."""
    return path.relative_to(PACKAGE).as_posix()


def part_of(path: Path) -> str:
    """Return the part of the program that a module belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(tree: ast.Module, inside: str = "") -> Iterator[tuple[int, str]]:
    """Yield the line and the full name of each module of the package that is imported."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            name = node.module or ""
            if node.level:
                base = ["qfix", *Path(inside).parent.parts]
                name = ".".join([*base[: len(base) - node.level + 1], *filter(None, [name])])
            if name == "qfix":
                yield from ((node.lineno, f"qfix.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, name


def wrong_imports(tree: ast.Module, importer: str, inside: str = "") -> list[str]:
    """Name the imports that go up or sideways in the order."""
    found = []
    for line, name in imports(tree, inside):
        package, _, rest = name.partition(".")
        part = rest.partition(".")[0]
        if package != "qfix" or part in {"", "__version__", importer}:
            continue
        if part not in RANK or RANK[part] >= RANK[importer]:
            found.append(f"line {line}: {importer} imports {name}")
    return found


def named(tree: ast.Module, names: set[str]) -> list[str]:
    """Name the uses of functions and attributes by their last name, however they are reached."""
    found = []
    for node in ast.walk(tree):
        name = ""
        if isinstance(node, ast.Name):
            name = node.id
        elif isinstance(node, ast.Attribute):
            name = node.attr
        if name in names:
            found.append(f"line {node.lineno}: {name}")  # type: ignore[attr-defined]
    return found


def called(tree: ast.Module, names: set[str]) -> list[str]:
    """Name the calls of functions and methods."""
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [use for call in calls for use in named(ast.Module([ast.Expr(call)], []), names)]


def test_there_are_modules_to_look_at() -> None:
    assert {"cli.py", "file.py", "recount/engine.py"} <= {place(path) for path in MODULES}


@EACH
def test_module_has_a_place_in_the_order(path: Path) -> None:
    assert place(path) == "__init__.py" or part_of(path) in RANK


@EACH
def test_imports_run_one_way(path: Path) -> None:
    if place(path) != "__init__.py":
        assert wrong_imports(parsed(path), part_of(path), place(path)) == []
    else:
        assert [name for _, name in imports(parsed(path)) if name.startswith("qfix")] == []


@EACH
def test_only_some_modules_open_files(path: Path) -> None:
    if place(path) not in FILES:
        assert called(parsed(path), OPENS) == []


@EACH
def test_only_one_module_writes(path: Path) -> None:
    if place(path) not in WRITERS:
        allowed = {"unlink"} if place(path) in REMOVERS else set()
        assert named(parsed(path), WRITES - allowed) == []


@EACH
def test_only_the_journal_is_a_database(path: Path) -> None:
    if place(path) not in DATABASES:
        assert "sqlite3" not in {name for _, name in imports(parsed(path))}


@EACH
def test_nothing_prints_past_the_renderer(path: Path) -> None:
    assert called(parsed(path), {"print"}) == []


@EACH
def test_only_the_command_line_reads_the_environment(path: Path) -> None:
    if place(path) not in ENVIRONMENT:
        assert named(parsed(path), {"environ", "environb", "getenv", "getenvb"}) == []


@EACH
def test_module_says_what_it_owns(path: Path) -> None:
    said = ast.get_docstring(parsed(path))
    assert said
    first = said.split("\n\n")[0]
    assert first.endswith(".")


@EACH
def test_module_is_not_too_long(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@EACH
def test_layout_has_no_io_and_no_numpy(path: Path) -> None:
    if part_of(path) in {"layout", "problems"}:
        used = {name.partition(".")[0] for _, name in imports(parsed(path))}
        assert not used & {"os", "io", "pathlib", "numpy", "click", "mmap", "fcntl"}


@pytest.mark.parametrize(
    ("line", "importer", "inside"),
    [
        ("import qfix.cli", "file", "file.py"),
        ("from qfix.report import text", "checks", "checks/data.py"),
        ("from qfix import examine", "recount", "recount/walk.py"),
        ("from qfix.recount.tally import Kind", "problems", "problems/model.py"),
        ("from qfix.guest import read", "recount", "recount/walk.py"),
        ("from ..cli import main", "modes", "modes/look.py"),
        ("from . import cli", "locks", "locks.py"),
        ("def late():\n    from qfix.modes import check", "report", "report/text.py"),
        ("from qfix.unheard_of import thing", "cli", "cli.py"),
    ],
)
def test_a_wrong_import_is_seen(line: str, importer: str, inside: str) -> None:
    assert wrong_imports(ast.parse(line), importer, inside)


@pytest.mark.parametrize(
    ("line", "importer", "inside"),
    [
        ("from qfix import __version__", "cli", "cli.py"),
        ("from qfix.errors import Status", "cli", "cli.py"),
        ("from qfix.layout.record import U32", "layout", "layout/header.py"),
        ("from .record import U32", "layout", "layout/header.py"),
        ("import os, click", "errors", "errors.py"),
    ],
)
def test_a_right_import_is_let_be(line: str, importer: str, inside: str) -> None:
    assert wrong_imports(ast.parse(line), importer, inside) == []


@pytest.mark.parametrize(
    "line", ["open('x')", "os.open('x', 0)", "path.read_bytes()", "with io.FileIO(3): pass"]
)
def test_a_call_is_seen(line: str) -> None:
    assert called(ast.parse(line), OPENS)
