"""Frozen language models: texts, rows, losses, embeddings."""
