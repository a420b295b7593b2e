"""Planners of what the user asks for by hand: edits and copies."""
