"""Command lines: each file turns options into a frozen config and calls the package with it."""
