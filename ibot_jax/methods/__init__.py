"""What is learned: the state, the pure step, and a file a method."""
