"""Data that ships with the package: the published start of the escape experiment and its published exit times."""
