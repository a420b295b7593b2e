"""What a repair of the cases of the corpus leaves, written down by hand: statuses and codes.

A case that is not named here is good after ``--fix all``. One value is what is left then, and that
``--fix all --lossy`` leaves nothing; a second one is what even that leaves.
"""

from __future__ import annotations

ONCE = {
    # What may be a guest's only copy is not freed, nor is anything given up, without --lossy.
    "compressed-outside-file": "6 R303 T216",
    "compressed-with-subclusters": "6 R301 T218",
    "data-file-offset": "6 T224",
    "file-cut": "6 T230",
    "file-cut-in-snapshots": "5 R301 S502 T230 T232 T234",
    "file-larger-than-reftable": "6 T214",
    "file-regrown": "6 T230",
    "l1-entry-outside-file": "6 R301 T203 T232",
    "l1-flags-only": "6 R301 T232",
    "l1-lacked": "6 R303 T235",
    "l1-lost": "6 R301 T232",
    "l1-unaligned": "6 R301 T202",
    "l2-at-end-of-file": "6 R301 T214",
    "l2-emptied": "6 R301 T233",
    "l2-emptied-shared": "6 R301 R303 T233",
    "l2-flag-only": "1 R301",
    "l2-outside-file": "6 R301 T214",
    "l2-tables-overlap": "6 R301 R302 R313 T202 T242 T250",
    "l2-unaligned": "6 T212",
    "l2-unfilled": "1 R301",
    "snapshot-l1-lacked": "6 R303 T235",
    "snapshot-l1-lost": "6 R301 R303 T232",
    "snapshot-l2-outside-file": "6 R301 T214",
    "subclusters-contradict": "6 T219",
    "zero-in-version-2": "6 T221",
    "subclusters-without-cluster": "6 R301 T220",
    # The second reader has got a copy; what it had before may be the cluster that is leaked. Where
    # a leaked cluster fits exactly between the neighbours nothing is copied: --lossy gives it back.
    "data-on-bitmap": "6 R301 R302 T241",
    "data-on-bitmap-directory": "1 R301",
    "data-on-encryption-header": "6 R301 R302 T241",
    "data-on-l1": "6 R301 R302 T241",
    "data-on-l2": "6 R301 R302 T241",
    "data-on-refblock": "6 R301 R302 R313 T241",
    "data-on-reftable": "6 R301 R302 T241",
    "data-on-snapshot-l1": "1 R301",
    "data-on-snapshot-table": "1 R301",
    "reused-cluster": "4 R301 R302 T240",
    "snapshot-l1-is-active-l1": "1 R301",
    "too-many-references": "4 R301 R305 T240",
    # Snapshots are dropped with --lossy only.
    "snapshot-extra-long": "5 S505",
    "snapshot-l1-overlap": "5 R301 R303 S513 T234 T235",
    "snapshot-phantom": "5 S517",
    "snapshot-size-huge": "5 S514",
    "snapshot-size-zero": "5 S514",
    "snapshots-too-many": "5 R301 S503 S517",
    "snapshots-with-data-file": "5 S515",
    # Names, bitmaps and sizes that can't be worked out from the rest.
    "backing-format-long": "6 H140",
    "backing-name-across": "6 H132",
    "backing-name-long": "6 H133",
    "backing-offset-outside": "6 H132",
    "bitmap-directory-broken": "6 B604 R301",
    "bitmap-entry-outside": "6 B607 R301",
    "bitmap-entry-reserved-bits": "6 B607",
    "bitmap-extra-data": "6 B616",
    "bitmap-flags-unknown": "6 B609",
    "bitmap-granularity": "6 B610",
    "bitmap-name-double": "6 B608",
    "bitmap-name-empty": "6 B617",
    "bitmap-table-outside": "6 B606 R301",
    "bitmap-too-small": "6 B614",
    "bitmap-type-unknown": "6 B615",
    "backing-name-in-header": "6 H134 H150",
    "crypt-method-unknown": "6 H110",
    "extension-overrun": "6 H130",
    "virtual-size-huge": "6 H111",
}

FOR_GOOD = {
    # The active L1 table can't be found: its data is neither given up nor freed.
    "file-cut-before-tables": ("6 H116 R312 R314 T230", "6 H116 R312 R314 T230"),
    "l1-at-header": ("6 H116 R301 R302 T232 T234 T242", "6 H116 R301 R302 T232 T234 T242"),
    "l1-offset-unaligned": ("6 H115 R301 T232", "6 H115 R301 T232"),
    "l1-outside-file": ("6 H116 R301 T232 T234", "6 H116 R301 T232 T234"),
    # The header says what can't be worked out from the rest.
    "backing-itself": ("6 H139", "6 H139"),
    "cluster-bits-large": ("6 H106", "6 H106"),
    "cluster-bits-small": ("6 H106", "6 H106"),
    "data-file-raw-backed": ("6 H148", "6 H148"),
    "data-file-bit-lost": ("6 R302 R313 T241", "6 R302 R313 T241"),
    "extension-double": ("6 H131", "6 H131"),
    "header-cut": ("6 H104", "6 H104"),
    "header-overwritten": ("6 H102", "6 H102"),
    "header-overwritten-with-zeros": ("6 H102", "6 H102"),
    "incompatible-unknown": ("8 H123", "8 H123"),
    "not-qcow2": ("8 H101", "8 H101"),
    "not-qcow2-empty": ("8 H101", "8 H101"),
    "subclusters-too-small": ("6 H114 H146 R301", "6 H114 H146 R301"),
    "version-1": ("8 H105", "8 H105"),
    "version-2-with-fields": ("6 H126", "6 H126"),
    "version-unknown": ("8 H105", "8 H105"),
    # The keys are gone, or where they are.
    "encryption-header-damaged": ("6 H144", "6 H144"),
    "encryption-pointer-missing": ("6 H141", "6 H141"),
}

LEFT = {name: (text, "0") for name, text in ONCE.items()} | FOR_GOOD


def left(name: str) -> dict[str, dict[str, object]] | None:
    """Return what stands in a case's expect.fixed.json, None where nothing is left."""
    if name not in LEFT:
        return None
    words = [text.split() for text in LEFT[name]]
    kinds = ("all", "lossy")
    return {
        kind: {"status": int(status), "codes": codes}
        for kind, (status, *codes) in zip(kinds, words, strict=True)
    }
