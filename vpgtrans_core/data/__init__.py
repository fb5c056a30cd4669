"""From files on disk to batches of one image with its captions."""
