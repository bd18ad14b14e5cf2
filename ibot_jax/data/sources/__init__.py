"""Where images lie."""
