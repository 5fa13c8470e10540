"""Slow and obvious versions of what the library does fast: written from the papers, in plain Python, with loops."""
