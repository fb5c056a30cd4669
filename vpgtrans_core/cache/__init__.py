"""The feature cache: what a frozen VPG computed from each image, on disk for later epochs, runs and target LLMs."""
