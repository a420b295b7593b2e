"""The one road for every write: overlay, plan, rehearsal, journal, apply, verify."""
