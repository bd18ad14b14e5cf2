"""Figures: one file each; they need a model and parameters, never a training state."""
