"""A finished model on its way to others: what of its folder goes, and how it gets to the hub."""
