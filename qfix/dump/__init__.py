"""Everything that is in an image, streamed: a section is a module that yields blocks of lines."""
