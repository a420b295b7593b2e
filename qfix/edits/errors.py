"""The error of an edit that can't be made; the plan adds which image and which edit."""


class EditError(Exception):
    """An edit that can't be made, and why."""
