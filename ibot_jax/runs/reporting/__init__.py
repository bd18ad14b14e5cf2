"""What a run says of itself: its header, its metrics, and signs of what goes wrong."""
