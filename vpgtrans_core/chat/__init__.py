"""Conversations with a finished model: in the terminal, and on a page in the browser."""
