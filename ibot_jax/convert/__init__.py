"""Weights to and from other projects' names and layouts."""
