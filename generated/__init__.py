"""Kernels that the derivations emit for the built-in activations; rewritten by ``hdsgd generate --builtin``."""
