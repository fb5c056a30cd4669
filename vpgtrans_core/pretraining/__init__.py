"""A VPG of one's own: made from nothing or from a vision tower, and pre-trained on images with captions."""
