"""Inspect, check and repair qcow2 disk images, offline and without QEMU."""

__version__ = "0.1.0"
