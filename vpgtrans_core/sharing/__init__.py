"""Publishes a finished model: chooses the files to upload and sends them to the Hugging Face hub."""
