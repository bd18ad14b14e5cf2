"""What all tasks share: their flags, what these name, and what becomes of results."""
