"""The bytes of a qcow2 file: structures and their fields; no I/O and no opinion."""
