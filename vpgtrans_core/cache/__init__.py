"""What a frozen VPG computed of images, kept on disk: across epochs, runs and target LLMs nothing is computed twice."""
