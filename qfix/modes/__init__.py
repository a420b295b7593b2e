"""The modes, one module each: open, engine, rows, render; the status is returned."""
