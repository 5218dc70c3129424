"""Writes tests/data/api.json anew."""

from .record import FILE, read

FILE.write_text(read())
