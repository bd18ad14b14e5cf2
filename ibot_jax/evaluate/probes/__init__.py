"""Heads that are trained on frozen features."""
