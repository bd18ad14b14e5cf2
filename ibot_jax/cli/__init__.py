"""What all programs share: how they read flags, how they end, what they print."""
