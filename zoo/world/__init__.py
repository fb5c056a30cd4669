"""A small real world: emoji in several styles and stamps, with their human words, from packages that users install."""
