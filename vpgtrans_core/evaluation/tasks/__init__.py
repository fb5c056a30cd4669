"""Evaluation tasks, one a file: each reads the official files as they are."""
