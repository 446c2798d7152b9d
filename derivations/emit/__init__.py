"""Backends: each module turns verified straight-line programs into source text of one language."""
