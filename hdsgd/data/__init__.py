"""Data that ships with the package: the published starting points."""
