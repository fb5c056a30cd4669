"""Readers: one file a format, each makes a `Listing` of one source. `detect` finds the right one by looking."""
