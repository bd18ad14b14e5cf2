"""Measures of features and predictions."""
