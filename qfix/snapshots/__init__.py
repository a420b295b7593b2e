"""Planners of what is done with snapshots: revert to one, delete them."""
