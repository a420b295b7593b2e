"""What should hold in an image, one module a pass; nothing here writes, or words anything."""
