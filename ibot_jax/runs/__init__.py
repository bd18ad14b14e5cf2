"""A run on the host: its loop, and what it writes."""
