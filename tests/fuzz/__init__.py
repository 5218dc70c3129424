"""Inputs that nobody meant: `python -m tests.fuzz --help` says how they are tried, CONTRIBUTING.md what came of it."""
