"""Placeholder docstring: replaced by the plugin's hooks."""
