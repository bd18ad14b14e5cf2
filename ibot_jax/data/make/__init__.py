"""What worker processes do."""
