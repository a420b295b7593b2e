"""-m copy of bytes: the result, the way back, QEMU's view of it, and all that is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import pytest

from change_run import SUFFIX, fill, mounted
from command import case, codes, copy, held, on_a_terminal, qfix, record
from mutant_run import IMAGE_STATUSES
from repair_images import made

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]


def moved(old: bytes, target: int, source: int, length: int, other: bytes = b"") -> bytes:
    """Return bytes after a copy inside them, or from other ones."""
    new = bytearray(old)
    new[target : target + length] = (other or old)[source : source + length]
    return bytes(new)


def words(target: int, source: int | None, length: int) -> list[str]:
    """Return the options of a copy."""
    start = [] if source is None else ["-S", hex(source)]
    return ["-m", "copy", "-O", hex(target), *start, "-w", str(length)]


def names(path: Path) -> list[str]:
    """Return what is in an image's folder."""
    return sorted(os.listdir(path.parent))


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("way", [[], ["--no-undo"]])
def test_any_range_of_an_image(seed: int, way: list[str], tmp_path: Path) -> None:
    random = Random(seed)  # noqa: S311  (no secret)
    path = copy(random.choice(["ok-v3", "ok-snapshots", "leak", "refcount-too-low"]), tmp_path)
    old = path.read_bytes()
    length = random.randrange(1, len(old) // 2)
    target, source = (random.randrange(len(old) - length) for _ in range(2))
    new = moved(old, target, source, length)
    assert qfix(*words(target, source, length), *way, "--yes", path).status in IMAGE_STATUSES
    assert path.read_bytes() == new
    if way:
        assert names(path) == [path.name]
    elif new != old:
        assert qfix("--undo", path).status in IMAGE_STATUSES
        assert path.read_bytes() == old


@pytest.mark.parametrize("way", [[], ["--no-undo"]])
@pytest.mark.parametrize(
    ("target", "source", "length"), [(0, 16, 1000), (16, 0, 1000), (5000, 0, 600), (0, 512, 512)]
)
def test_ranges_with_the_header(
    way: list[str], target: int, source: int, length: int, tmp_path: Path
) -> None:
    """The mark that the header carries meanwhile is not copied."""
    path = copy("ok-snapshots", tmp_path)
    new = moved(path.read_bytes(), target, source, length)
    assert qfix(*words(target, source, length), *way, "--yes", path).status in IMAGE_STATUSES
    assert path.read_bytes() == new


def test_from_another_file(tmp_path: Path) -> None:
    path, other = copy("l1-lost", tmp_path), copy("ok-v3", tmp_path)
    old, there = path.read_bytes(), other.read_bytes()
    assert qfix(*words(0x600, 0x200, 700), "-F", other, "--yes", path).status in IMAGE_STATUSES
    assert path.read_bytes() == moved(old, 0x600, 0x200, 700, there)
    assert qfix("--undo", path).status == 6
    assert path.read_bytes() == old
    assert qfix(*words(0x601, None, 33), "-F", other, "--yes", path).status in IMAGE_STATUSES
    assert path.read_bytes() == moved(old, 0x601, 0x601, 33, there)
    assert other.read_bytes() == there


@pytest.mark.parametrize("link", [None, os.link, os.symlink])
def test_the_image_as_its_own_source(link: object, tmp_path: Path) -> None:
    path, other = copy("ok-v3", tmp_path), tmp_path / "link"
    old = path.read_bytes()
    if callable(link):
        link(path, other)
    source = other if link else path
    assert qfix(*words(0x700, 0x600, 500), "-F", source, "--yes", path).status in IMAGE_STATUSES
    assert path.read_bytes() == moved(old, 0x700, 0x600, 500)


def test_a_header_from_a_sibling(tmp_path: Path) -> None:
    path, sibling = copy("ok-v3", tmp_path), copy("ok-fresh", tmp_path)
    good = path.read_bytes()
    path.write_bytes(b"\xeb\x63\x90" * 170 + good[510:])
    sibling.write_bytes(good[:512])
    assert codes(path) & {"H101", "H102"}
    assert qfix(*words(0, None, 512), "-F", sibling, path).status == 0
    assert path.read_bytes() == good


@pytest.mark.usefixtures("need_qemu")
def test_qemu_reads_the_header_and_the_table_that_were_copied(tmp_path: Path) -> None:
    image = made(tmp_path, "compat=1.1", "64M", "write -P 1 0 3M", "write -P 2 40M 1M")
    sibling = tmp_path / "sibling"
    sibling.write_bytes(image.raw)
    guest = image.guest()
    table = image.number(image.number(40)) & 0xFFFFFFFFFFFE00
    with image.path.open("r+b") as file:
        file.write(b"\0" * 4096)
        file.seek(table)
        file.write(b"\xee" * 65536)
    options = words(0, None, 65536), words(table, None, 65536)
    damaged = image.digest
    assert qfix(*options[0], "-F", sibling, "--yes", image.path).status == 6
    assert qfix(*options[1], "-F", sibling, "--yes", image.path).status == 0
    assert image.guest() == guest
    assert image.qemu("qemu-img", "check", "image").returncode == 0
    assert qfix("--undo", image.path).status == 6
    assert qfix("--undo", image.path).status == 6
    assert image.digest == damaged


MISFITS = [
    (["-m", "copy"], 64, "needs one of"),
    (["-m", "copy", "-O", "0"], 64, "-w and -S missing"),
    (["-m", "copy", "-O", "0", "-w", "1"], 64, "-S missing"),
    (["-m", "copy", "-S", "0", "-w", "1"], 64, "-O missing"),
    (["-m", "copy", "-F", "{good}", "-w", "1"], 64, "-O missing"),
    (words(0, 512, 0), 64, "copies nothing"),
    (["-m", "copy", "-O", "x", "-S", "0", "-w", "1"], 64, "no number"),
    (["-m", "copy", "-O", "-1", "-S", "0", "-w", "1"], 64, "no number"),
    (words(4600, 0, 100), 64, "does not make it longer"),
    (words(0xFFFFFFFFFFFFFFFF, 0, 1), 64, "does not make it longer"),
    (words(0, 0, 1 << 70), 64, "does not make it longer"),
    (words(0, 0xFFFFFFFFFFFFFFFF, 1), 64, "what is not there"),
    ([*words(0, 1, 512), "-F", "{short}"], 64, "it has 0x64 bytes"),
    ([*words(0, 0, 1), "-F", "{gone}"], 66, "No such file"),
    ([*words(0, 0, 1), "-F", "{folder}"], 74, "is a folder"),
    ([*words(0, 0, 1), "-F", "{fifo}"], 74, "neither a file nor a block device"),
    ([*words(0, 0, 1), "--metadata", "{gone}"], 64, "does not go with --metadata"),
    (["-m", "copy", "--metadata", "{gone}", "--no-undo"], 64, "changes no image"),
    (["-m", "copy", "-F", "{good}", "--restore-metadata", "{good}"], 64, "does not go with"),
    (["-m", "copy", "--metadata", "{gone}", "--restore-metadata", "{good}"], 64, "exclude"),
    (["-m", "copy", "-V", "1"], 64, "belongs to -m edit"),
    ([*words(0, 512, 10), "{good}"], 64, "one image at a time"),
    (["--no-undo", "--fix", "all"], 64, "belongs to -m copy"),
    ([*words(0x200, 0x600, 512)], 64, "--yes makes the change"),
    ([*words(0x200, 0x600, 512), "--no-undo"], 64, "can't be taken back"),
    ([*words(0x1000, 0, 512), "--no-undo"], 64, "can't be taken back"),
]


@pytest.mark.parametrize(("options", "status", "said"), MISFITS)
def test_what_is_refused(options: list[str], status: int, said: str, tmp_path: Path) -> None:
    path = copy("ok-v3", tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "short").write_bytes(bytes(100))
    (tmp_path / "good").write_bytes(path.read_bytes())
    os.mkfifo(tmp_path / "fifo")
    kinds = {name: tmp_path / name for name in ("folder", "short", "good", "fifo", "gone")}
    before, there = path.read_bytes(), names(path)
    done = qfix(*(word.format(**kinds) for word in options), path)
    assert (done.status, done.stdout) == (status, "")
    assert said in done.stderr
    assert path.read_bytes() == before
    assert names(path) == there


def test_a_source_that_may_not_be_read(tmp_path: Path) -> None:
    if not os.geteuid():
        pytest.skip("root may read all")
    path, other = copy("ok-v3", tmp_path), copy("leak", tmp_path)
    other.chmod(0)
    assert qfix(*words(0, 0, 512), "-F", other, path).status == 77


def test_an_image_or_a_source_that_another_holds(tmp_path: Path) -> None:
    path, other = copy("ok-v3", tmp_path), copy("leak", tmp_path)
    before = path.read_bytes()
    for taken in (path, other):
        with held(taken):
            assert qfix(*words(0x600, 0x600, 512), "-F", other, "--yes", path).status == 75
    assert path.read_bytes() == before
    assert names(path) == sorted([path.name, other.name])


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    path = copy("ok-v3", tmp_path)
    before = path.read_bytes()
    done = qfix(*words(0x200, 0x600, 512), "-n", path)
    assert done.status == 6
    assert "Nothing was written: 1 change would be made." in done.stdout
    assert path.read_bytes() == before
    assert names(path) == [path.name]


def test_what_is_the_same_already(tmp_path: Path) -> None:
    path = copy("ok-v3", tmp_path)
    for options in (words(0x200, 0x200, 512), [*words(0, 0, 512), "-F", str(case("ok-v3"))]):
        done = qfix(*options, path)
        assert done.status == 0
        assert "it is so already" in done.stdout
    assert names(path) == [path.name]


def test_json_tells_of_a_journal_or_of_none(tmp_path: Path) -> None:
    path = copy("ok-v3", tmp_path)
    end = len(path.read_bytes())
    told = record(*words(end - 4, 0, 2), "--yes", path)["qfix"]["change"]
    assert (told["applied"], told["record"]) == (True, 1)
    assert told["guest-changes"] == [
        f"guest data in host cluster {end // 512 - 1} would be overwritten"
    ]
    kept = (tmp_path / (path.name + SUFFIX)).read_bytes()
    told = record(*words(end - 4, 8, 2), "--yes", "--no-undo", path)["qfix"]["change"]
    assert (told["applied"], told["record"], told["journal"]) == (True, None, None)
    assert (tmp_path / (path.name + SUFFIX)).read_bytes() == kept
    refused = qfix("--undo", path)
    assert refused.status == 64
    assert "--force does it all the same" in refused.stderr


def test_a_page_says_what_can_be_taken_back(tmp_path: Path) -> None:
    path = copy("ok-v3", tmp_path)
    done = qfix(*words(0x200, 0x600, 512), "--yes", path)
    assert "journal" in done.stdout
    assert "qfix --undo" in done.stdout
    assert "512 bytes from 0x600 of the image itself" in done.stdout
    assert qfix("--undo", path).status == 0
    done = qfix(*words(0x200, 0x600, 512), "--yes", "--no-undo", path)
    assert "can't be taken back" in done.stderr
    assert "no journal was kept" in done.stdout
    assert "--undo" not in done.stdout.replace("--no-undo", "")


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        (words(0x200, 0x600, 512), "This makes"),
        (words(0x800, 0x100, 16), "What the guest reads changes"),
        ([*words(0x1F0, 0, 4), "--no-undo"], "Make this change all the same?"),
    ],
)
def test_harm_is_asked_about_on_a_terminal(options: list[str], asked: str, tmp_path: Path) -> None:
    path = copy("ok-v3", tmp_path)
    before = path.read_bytes()
    status, said = on_a_terminal(b"n\n", *options, path)
    assert status == 64
    assert asked in said
    assert "Make this change all the same?" in said
    assert path.read_bytes() == before
    assert on_a_terminal(b"y\n", *options, path)[0] in IMAGE_STATUSES
    assert path.read_bytes() != before


def test_no_room_for_the_journal_points_to_the_way_without(tmp_path: Path) -> None:
    with mounted(tmp_path / "small", 512) as _:
        folder = tmp_path / "small"
        path = copy("ok-v3", folder)
        other = tmp_path / "other"
        old = path.read_bytes()
        other.write_bytes(bytes(byte ^ 1 for byte in old))
        fill(folder)
        options = [*words(0x400, None, len(old) - 0x400), "-F", str(other), "--yes"]
        done = qfix(*options, path)
        assert done.status == 74
        assert "no room for the journal" in done.stderr
        assert "--no-undo" in done.stderr
        assert path.read_bytes() == old
        assert qfix(*options, "--no-undo", path).status in IMAGE_STATUSES
        assert path.read_bytes() == moved(old, 0x400, 0x400, len(old) - 0x400, other.read_bytes())


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Path]:
    """Give a loop device over an image."""
    backing = copy("ok-v3", tmp_path)
    command = ["losetup", "--find", "--show", str(backing)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("loop devices can't be made here")
    yield Path(done.stdout.strip())
    subprocess.run(["losetup", "--detach", done.stdout.strip()], check=True)


def test_a_device_as_image_and_as_source(device: Path, tmp_path: Path) -> None:
    old = device.read_bytes()
    options = words(0x600, 0x800, 512)
    assert qfix(*options, "--yes", device).status == 64
    assert qfix(*options, "--yes", "--no-undo", device).status in IMAGE_STATUSES
    assert device.read_bytes() == moved(old, 0x600, 0x800, 512)
    path = copy("leak", tmp_path)
    before = path.read_bytes()
    assert qfix(*words(0x500, None, 512), "-F", device, "--yes", path).status in IMAGE_STATUSES
    assert path.read_bytes() == moved(before, 0x500, 0x500, 512, device.read_bytes())


MEASURED = """
import re, sys
from pathlib import Path
from qfix.cli import main
status = main(sys.argv[1:])
said = Path("/proc/self/status").read_text()
print(status, int(re.search("VmHWM:\\s*(\\d+)", said)[1]) // 1024, file=sys.stderr)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system has no /proc")
@pytest.mark.parametrize("way", [[], ["--no-undo"]])
def test_memory_does_not_grow_with_the_length(way: list[str], tmp_path: Path) -> None:
    path, size = copy("ok-v3", tmp_path), 192 << 20
    with path.open("r+b") as file:
        file.truncate(2 * size)
    other = tmp_path / "other"
    with other.open("wb") as file:
        for number in range(size >> 20):
            file.write(bytes([number % 255 + 1]) * (1 << 20))
    target = 64 << 20
    options = [*words(target, 0, size), "-F", str(other), "--yes", *way]
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *options, str(path)],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    status, peak = map(int, done.stderr.split()[-2:])
    assert status in IMAGE_STATUSES
    assert peak < 120, "the length of the copy is in memory"
    with path.open("rb") as file, other.open("rb") as copied:
        file.seek(target)
        while part := copied.read(1 << 20):
            assert file.read(len(part)) == part
