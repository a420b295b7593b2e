"""Edits that the user asks for by offset or by name; what they mean, not whether they are wise."""
