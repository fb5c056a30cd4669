"""How the miniature's models are made: texts, gates, training, and the demo. Not part of the installed package."""
