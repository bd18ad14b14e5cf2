"""What is drawn for a view."""
