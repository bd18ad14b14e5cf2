"""Weights that are saved: runs, checkpoints and exports, read, written and described."""
