"""Evaluations: they need a backbone and its parameters, never a training state."""
