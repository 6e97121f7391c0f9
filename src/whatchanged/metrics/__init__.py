"""Numbers of the field: captions against references, masks against masks."""
