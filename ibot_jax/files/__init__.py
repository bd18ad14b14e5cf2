"""Paths on disks and in buckets, JSON lines, event files, checksums."""
