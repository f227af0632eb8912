"""A versioned bucket as it was: `mirror.py` opens the mirror of a moment, `changes.py` tells what
became of keys between two, `restoring.py` brings objects back, `nullmarkers.py` from under delete
markers that a write would replace.
"""
