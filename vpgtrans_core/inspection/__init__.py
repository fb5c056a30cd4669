"""What the soft prompts of an image are: their nearest words, their norms, and where in the picture each looks."""
