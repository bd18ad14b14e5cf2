"""Programs for pods that are not there, compiled ahead."""
