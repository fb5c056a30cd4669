"""The laboratory: a matrix of transfers, run once each, and the report that compares them with the paper."""
