"""A versioned bucket as it was: `mirror.py` opens the mirror of a moment."""
