"""What is done to an image before it is checked: rows of qemu-img and qemu-io calls.

A step is a qemu-img command line without the program's name, or one of

    io FILE: COMMAND; COMMAND       qemu-io commands on a file
    crash FILE: COMMAND; COMMAND    the same, and the last one kills the process
    file NAME SIZE                  a file of seeded data that compresses by half

and {o} stands for the creation options of the format, {dir} for the image's folder.
"""

from __future__ import annotations

import random

NEW = "create -q -f qcow2 -o {o} image "
OVER_BASE = "create -q -f qcow2 -o {o} -F qcow2 -b "
BASE = (
    "create -q -f qcow2 base 1M",
    "io base: write -P 9 0 512k; write -P 8 768k 64k",
)


def _random_writes(seed: str, size_k: int, count: int) -> str:
    """Return *count* seeded qemu-io commands all over an image of *size_k* KiB."""
    dice = random.Random(seed)  # noqa: S311 - the same images every time
    verbs = ("write -P 3", "write -P 4", "write -P 5", "write -z", "write -z -u", "discard")
    commands = []
    for _ in range(count):
        length = dice.choice((1, 3, 4, 16, 64, 70))
        start = dice.randrange(size_k - length)
        commands.append(f"{dice.choice(verbs)} {start}k {length}k")
    return "; ".join(commands)


WORKLOADS: dict[str, tuple[str, ...]] = {
    "empty": (NEW + "1M",),
    "plain": (NEW + "1M", "io image: write -P 1 0 256k"),
    "sector": (NEW + "512", "io image: write -P 1 0 512"),
    "oddsize": (NEW + "1000448", "io image: write -P 1 960k 16k; write -P 2 7k 1k"),
    "huge": (NEW + "64G", "io image: write -P 1 0 1k; write -P 2 63G 1k"),
    "holes": (
        NEW + "4M",
        "io image: write -P 1 0 100k; write -P 2 300k 8k; write -P 3 1M 512; write -P 4 4095k 1k",
        "io image: write -z 16k 64k; write -z -u 300k 4k; discard 64k 32k; write -P 5 2M 40k",
    ),
    "backwards": (
        NEW + "4M",
        "io image: write -P 1 3M 64k; write -P 2 2M 64k; write -P 3 1M 64k; write -P 4 512k 1k",
        "io image: write -P 5 448k 64k; write -P 6 384k 64k; write -P 7 320k 64k",
    ),
    "discard": (
        NEW + "1M",
        "io image: write -P 1 0 512k; write -P 2 700k 100k",
        "io image: discard 64k 256k; write -z 0 32k; write -z -u 448k 64k; write -P 3 96k 16k",
    ),
    "emptied": (NEW + "1M", "io image: write -P 1 0 512k", "io image: discard 0 1M"),
    "zeros": (
        NEW + "2M",
        "io image: write -z 0 1M; write -P 1 512k 64k; write -z -u 1M 512k",
        "io image: write -P 1 1M 8k; write -z 1M 4k; write -z 520k 4k",
    ),
    "random-a": (NEW + "4M", "io image: " + _random_writes("a", 4096, 30)),
    "random-b": (NEW + "16M", "io image: " + _random_writes("b", 16384, 30)),
    "random-snap": (
        NEW + "4M",
        "io image: " + _random_writes("c", 4096, 12),
        "snapshot -c one image",
        "io image: " + _random_writes("d", 4096, 12),
        "snapshot -c two image",
        "io image: " + _random_writes("e", 4096, 12),
    ),
    "snap": (
        NEW + "1M",
        "io image: write -P 1 0 256k",
        "snapshot -c one image",
        "io image: write -P 2 64k 64k",
    ),
    "snap-empty": (NEW + "1M", "snapshot -c one image", "snapshot -c two image"),
    "snaps": (
        NEW + "2M",
        "io image: write -P 1 0 256k",
        "snapshot -c one image",
        "io image: write -P 2 64k 64k; write -P 2 1M 16k",
        "snapshot -c two image",
        "io image: write -P 3 128k 64k; discard 0 64k",
        "snapshot -c a-name-of-some-length image",
        "io image: write -z 64k 64k; write -P 4 1500k 64k",
    ),
    "snap-delete": (
        NEW + "1M",
        "io image: write -P 1 0 256k",
        "snapshot -c one image",
        "io image: write -P 2 64k 64k",
        "snapshot -c two image",
        "io image: write -P 3 128k 64k",
        "snapshot -c three image",
        "snapshot -d two image",
        "io image: write -P 4 0 32k",
    ),
    "snap-delete-all": (
        NEW + "1M",
        "io image: write -P 1 0 256k",
        "snapshot -c one image",
        "io image: write -P 2 64k 64k",
        "snapshot -d one image",
    ),
    "snap-apply": (
        NEW + "1M",
        "io image: write -P 1 0 256k",
        "snapshot -c one image",
        "io image: write -P 2 64k 64k; write -P 2 512k 64k",
        "snapshot -c two image",
        "snapshot -a one image",
        "io image: write -P 3 0 16k",
    ),
    "snap-apply-last": (
        NEW + "1M",
        "io image: write -P 1 0 256k",
        "snapshot -c one image",
        "io image: write -P 2 64k 64k",
        "snapshot -a one image",
        "snapshot -d one image",
    ),
    "snap-resize": (
        NEW + "1M",
        "io image: write -P 1 0 128k",
        "snapshot -c one image",
        "resize -q image 40M",
        "io image: write -P 2 39M 64k",
        "snapshot -c two image",
        "resize -q --shrink image 2M",
        "io image: write -P 3 1M 64k",
    ),
    "snap-resize-apply": (
        NEW + "1M",
        "io image: write -P 1 0 128k",
        "snapshot -c one image",
        "resize -q image 9M",
        "io image: write -P 2 8M 64k",
        "snapshot -c two image",
        "snapshot -a one image",
        "snapshot -a two image",
    ),
    "vmstate": (NEW + "1M", "io image: write -P 1 0 64k; write -b -P 7 0 128k"),
    "vmstate-snap": (
        NEW + "1M",
        "io image: write -P 1 0 64k; write -b -P 7 0 128k",
        "snapshot -c one image",
        "io image: write -P 2 64k 64k; write -b -P 6 0 64k",
        "snapshot -c two image",
        "io image: write -P 3 0 64k",
    ),
    "compressed": (
        NEW + "4M",
        "io image: write -c -P 1 0 64k; write -c -P 2 128k 64k; write -P 3 64k 64k",
        "io image: write -P 4 130k 1k; discard 0 16k",
    ),
    "compressed-big": (
        NEW + "8M",
        "file noise 4M",
        "io image: write -c -s noise 0 4M; write -P 3 1M 64k; write -c -P 4 6M 2M",
    ),
    "compressed-snap": (
        NEW + "1M",
        "file noise 256k",
        "io image: write -c -s noise 0 256k",
        "snapshot -c one image",
        "io image: write -P 2 64k 64k",
        "snapshot -c two image",
        "io image: write -P 2 128k 32k; write -c -P 8 512k 64k",
    ),
    "converted": (
        "file noise 640k",
        "convert -f raw -O qcow2 -c -o {o} noise image",
    ),
    "converted-plain": (
        "file noise 640k",
        "convert -f raw -O qcow2 -o {o} noise image",
    ),
    "backed": (
        *BASE,
        OVER_BASE + "base image",
        "io image: write -P 1 100k 64k; write -z 0 32k; discard 768k 64k",
    ),
    "backed-absolute": (*BASE, OVER_BASE + "{dir}/base image", "io image: write -P 1 1k 1k"),
    "backed-larger": (*BASE, OVER_BASE + "base image 3M", "io image: write -P 1 1022k 64k"),
    "backed-snap": (
        *BASE,
        OVER_BASE + "base image",
        "io image: write -P 1 100k 64k",
        "snapshot -c one image",
        "io image: write -P 2 120k 4k; write -z 0 128k",
    ),
    "backed-compressed": (*BASE, OVER_BASE + "base image", "io image: write -c -P 1 64k 128k"),
    "committed": (
        *BASE,
        OVER_BASE + "base image",
        "io image: write -P 1 100k 64k; write -z 0 32k",
        "commit -q image",
        "io image: write -P 2 0 4k",
    ),
    "commit-target": (
        NEW + "1M",
        "io image: write -P 1 0 128k",
        "create -q -f qcow2 -F qcow2 -b image top",
        "io top: write -P 2 64k 256k; write -z 0 64k",
        "commit -q top",
    ),
    "rebased": (
        *BASE,
        OVER_BASE + "base image",
        "io image: write -P 1 100k 64k",
        "create -q -f qcow2 other 1M",
        "io other: write -P 9 0 128k",
        "rebase -q -F qcow2 -b other image",
    ),
    "rebased-flat": (*BASE, OVER_BASE + "base image", "rebase -q -b '' image"),
    "rebased-unsafe": (
        *BASE,
        OVER_BASE + "base image",
        "io image: write -P 1 100k 64k",
        "create -q -f raw a-raw-base-with-a-long-name 1M",
        "rebase -q -u -F raw -b a-raw-base-with-a-long-name image",
    ),
    "grown": (
        NEW + "1M",
        "io image: write -P 1 0 128k",
        "resize -q image 64M",
        "io image: write -P 2 63M 64k",
    ),
    "grown-prealloc": (
        NEW + "1M",
        "io image: write -P 1 0 128k",
        "resize -q --preallocation=metadata image 2M",
    ),
    "grown-falloc": (
        NEW + "1M",
        "io image: write -P 1 0 128k",
        "resize -q --preallocation=falloc image 3M",
    ),
    "shrunk": (
        NEW + "4M",
        "io image: write -P 1 0 128k; write -P 2 3M 256k",
        "resize -q --shrink image 1M",
    ),
    "shrunk-odd": (
        NEW + "4M",
        "io image: write -P 1 0 1M; write -P 2 2M 64k",
        "resize -q --shrink image 333312",
        "resize -q image 5M",
    ),
    "bitmap": (
        NEW + "1M",
        "io image: write -P 1 0 256k",
        "bitmap --add -g 64k image bm0",
        "io image: write -P 5 0 128k",
    ),
    "bitmap-empty": (NEW + "1M", "bitmap --add image bm0"),
    "bitmaps": (
        NEW + "4M",
        "bitmap --add -g 512 image fine",
        "io image: write -P 1 0 256k; write -P 2 3M 64k",
        "bitmap --add --disable image off",
        "bitmap --add -g 2M image coarse",
        "io image: write -P 5 1M 128k",
        "bitmap --disable image coarse",
        "io image: write -P 5 2M 8k; discard 0 64k",
    ),
    "bitmap-removed": (
        NEW + "1M",
        "bitmap --add image bm0",
        "bitmap --add image bm1",
        "io image: write -P 1 0 256k",
        "bitmap --remove image bm0",
        "bitmap --clear image bm1",
        "io image: write -P 1 512k 16k",
    ),
    "bitmap-gone": (
        NEW + "1M",
        "bitmap --add image bm0",
        "io image: write -P 1 0 256k",
        "bitmap --remove image bm0",
    ),
    "bitmap-merged": (
        NEW + "1M",
        "bitmap --add image bm0",
        "io image: write -P 1 0 256k",
        "bitmap --add --disable --merge bm0 image bm1",
    ),
    "bitmap-snap": (
        NEW + "1M",
        "bitmap --add -g 4k image bm0",
        "io image: write -P 1 0 256k",
        "snapshot -c one image",
        "io image: write -P 2 64k 64k",
        "snapshot -c two image",
        "io image: write -P 2 64k 64k",
    ),
    "bitmap-resized": (
        NEW + "1M",
        "bitmap --add -g 512 image bm0",
        "io image: write -P 1 0 256k",
        "resize -q image 8M",
        "io image: write -P 1 7M 256k",
    ),
    "bitmap-backed": (
        *BASE,
        OVER_BASE + "base image",
        "bitmap --add image bm0",
        "io image: write -P 1 100k 64k",
    ),
    "bitmap-killed": (
        NEW + "1M",
        "bitmap --add -g 64k image bm0",
        "io image: write -P 5 0 128k",
        "crash image: write -P 6 256k 64k; flush; sigraise 9",
    ),
    "killed": (
        NEW + "1M",
        "io image: write -P 1 0 128k",
        "crash image: write -P 2 64k 256k; flush; write -P 3 512k 64k; sigraise 9",
    ),
    "killed-snap": (
        NEW + "1M",
        "io image: write -P 1 0 128k",
        "snapshot -c one image",
        "crash image: write -P 2 64k 128k; flush; discard 0 64k; flush; sigraise 9",
    ),
    "amend-version": (
        NEW + "1M",
        "io image: write -P 1 0 128k",
        "amend -q -o compat=1.1 image",
        "amend -q -o lazy_refcounts=on image",
        "io image: write -P 2 64k 64k; write -z 0 16k",
    ),
    "amend-back": (NEW + "1M", "io image: write -P 1 0 128k", "amend -q -o compat=0.10 image"),
    "amend-wider": (
        NEW + "1M",
        "io image: write -P 1 0 128k",
        "snapshot -c one image",
        "amend -q -o refcount_bits=64 image",
        "io image: write -P 2 64k 64k",
    ),
    "amend-narrower": (
        NEW + "1M",
        "io image: write -P 1 0 300k",
        "snapshot -c one image",
        "amend -q -o refcount_bits=2 image",
        "io image: write -P 2 64k 64k",
    ),
}
"""The steps that make an image called `image`, by the name of what is special about it."""
