"""Planners that answer findings by writing into the overlay of a draft."""
