"""The plan of a run: what it trains, with which shapes, and what it costs, from configs alone."""
