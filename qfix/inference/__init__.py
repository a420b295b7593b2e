"""What damaged or lost metadata must have been: evidence and guesses; nothing here writes."""
