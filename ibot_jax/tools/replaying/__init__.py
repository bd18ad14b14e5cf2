"""Recordings of original programs: a file for each kind, which computes what was recorded again."""
