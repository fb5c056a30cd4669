"""How the projector is initialised: word pairs, the word converter, the merge, the start from words."""
