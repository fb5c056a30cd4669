"""Whether a model sees: its loss with exchanged and without pictures, and what is wrong with what it says."""
