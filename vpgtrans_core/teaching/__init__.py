"""The source as teacher: it describes the images that have no captions, and its captions are what the target learns."""
