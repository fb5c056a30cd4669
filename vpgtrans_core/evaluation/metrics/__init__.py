"""Evaluation metrics, one a file, equal to the reference implementations."""
