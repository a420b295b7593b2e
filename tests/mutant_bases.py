"""The sound images that mutants are made of: small, so that a mutation hits metadata.

One is put together here, so that there always is one; the folders under ``images/`` follow, and
those that QEMU's programs make where they are installed.
"""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

from mutations import Base
from qemu_images import Recipe

CORPUS = Path(__file__).resolve().parents[1] / "images"
BASE_BYTES = range(104, 4 << 20)
CORPUS_WEIGHT = 0.1
"""Its images are many and most of them damaged already: the sound ones have their turn too."""
ATTEMPTS = 20
"""How often to try: where the clock of the machine is coarse qemu-img fails to time its key."""

NEW = "create -q -f qcow2 -o {o} image "
WRITE = "io image: write -P 1 0 24k; write -P 2 60k 4k; write -z 8k 4k; write -z -u 30k 8k"
REWRITE = "io image: write -P 3 4k 16k; write -P 4 100k 4k"
SNAPSHOTS = (WRITE, "snapshot -c one image", REWRITE, "snapshot -c two image", WRITE)
BITMAPS = (
    "bitmap --add -g 512 image fine",
    "bitmap --add -g 64k image coarse",
    REWRITE,
    "bitmap --disable image coarse",
    WRITE,
)
COMPRESSED = "io image: write -c -P 5 0 32k; write -c -P 6 64k 16k; write -P 7 8k 4k"
BACKING = "create -q -f qcow2 base 64k"
LUKS = "encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10"

RECIPES = (
    Recipe("v2", "compat=0.10,cluster_size=512", (NEW + "256k", WRITE)),
    Recipe("v2-snapshots", "compat=0.10,cluster_size=1k", (NEW + "256k", *SNAPSHOTS)),
    Recipe("v3", "cluster_size=512", (NEW + "256k", WRITE)),
    Recipe("v3-4k", "cluster_size=4k", (NEW + "2M", WRITE)),
    Recipe("v3-64k", "cluster_size=64k", (NEW + "1M", *SNAPSHOTS)),
    Recipe("refcount-1", "cluster_size=512,refcount_bits=1", (NEW + "256k", WRITE)),
    Recipe("refcount-2", "cluster_size=512,refcount_bits=2", (NEW + "256k", *SNAPSHOTS)),
    Recipe("refcount-4", "cluster_size=512,refcount_bits=4", (NEW + "256k", *SNAPSHOTS)),
    Recipe("refcount-8", "cluster_size=512,refcount_bits=8", (NEW + "256k", *SNAPSHOTS)),
    Recipe("refcount-32", "cluster_size=1k,refcount_bits=32", (NEW + "256k", *SNAPSHOTS)),
    Recipe("refcount-64", "cluster_size=512,refcount_bits=64", (NEW + "256k", *SNAPSHOTS)),
    Recipe("snapshots", "cluster_size=512", (NEW + "256k", *SNAPSHOTS)),
    Recipe("snapshots-4k", "cluster_size=4k", (NEW + "3M", *SNAPSHOTS)),
    Recipe("bitmaps", "cluster_size=512", (NEW + "256k", *BITMAPS)),
    Recipe("bitmaps-snapshots", "cluster_size=4k", (NEW + "1M", *BITMAPS, *SNAPSHOTS)),
    Recipe("zlib", "cluster_size=4k", (NEW + "256k", COMPRESSED)),
    Recipe("zlib-512", "cluster_size=512", (NEW + "256k", COMPRESSED, *SNAPSHOTS)),
    Recipe("zstd", "cluster_size=4k,compression_type=zstd", (NEW + "256k", COMPRESSED)),
    Recipe("extended", "cluster_size=16k,extended_l2=on", (NEW + "1M", *SNAPSHOTS)),
    Recipe("extended-zlib", "cluster_size=16k,extended_l2=on", (NEW + "1M", COMPRESSED)),
    Recipe("data-file", "cluster_size=1k,data_file=image.data", (NEW + "256k", WRITE)),
    Recipe("luks", f"cluster_size=2k,{LUKS}", (NEW + "256k", WRITE)),
    Recipe(
        "backed",
        "cluster_size=1k",
        (BACKING, "create -q -f qcow2 -o {o} -F qcow2 -b base image 256k", WRITE),
    ),
    Recipe(
        "dirty",
        "cluster_size=1k,lazy_refcounts=on",
        (NEW + "256k", "crash image: write -P 2 0 20k; flush; sigraise 9"),
    ),
    Recipe("metadata", "cluster_size=1k,preallocation=metadata", (NEW + "128k",)),
    Recipe("empty", "cluster_size=512", (NEW + "0",)),
)


def tiny_image() -> bytes:
    """Return a sound version 3 image of seven 512-byte clusters, two of them data."""
    size, copied = 512, 1 << 63
    header = struct.pack(
        ">4sIQIIQIIQQIIQQQQIIQ",
        *(b"QFI\xfb", 3, 0, 0, 9, 64 * size, 0, 1, 3 * size, size, 1, 0, 0),
        *(0, 0, 0, 4, 112, 0),
    )
    clusters = (
        header,
        struct.pack(">Q", 2 * size),
        struct.pack(">7H", *[1] * 7),
        struct.pack(">Q", 4 * size | copied),
        struct.pack(">4Q", 5 * size | copied, 0, 1, 6 * size | copied),
        b"data" * 128,
        b"more" * 128,
    )
    return b"".join(cluster.ljust(size, b"\0") for cluster in clusters)


def all_bases(folder: Path) -> list[Base]:
    """Return every base image in a fixed order, those of QEMU made in *folder*."""
    bases = [Base("tiny", tiny_image()), *read_bases(CORPUS, CORPUS_WEIGHT)]
    if shutil.which("qemu-img") and shutil.which("qemu-io"):
        bases += [_make(recipe, folder / recipe.name) for recipe in RECIPES]
    return bases


def read_bases(folder: Path, weight: float = 1) -> list[Base]:
    """Return the images (``*.qcow2``) below a folder, without what is too short or too long."""
    return [
        Base(str(path.relative_to(folder)), path.read_bytes(), weight=weight)
        for path in sorted(folder.glob("**/*.qcow2"))
        if path.stat().st_size in BASE_BYTES
    ]


def _make(recipe: Recipe, folder: Path) -> Base:
    for attempt in range(ATTEMPTS):
        try:
            image = recipe.build(folder)
            break
        except RuntimeError:
            if attempt == ATTEMPTS - 1:
                raise
            shutil.rmtree(folder)
    beside = tuple(sorted(path for path in folder.iterdir() if path != image))
    return Base(recipe.name, image.read_bytes(), recipe.encrypted, beside)
