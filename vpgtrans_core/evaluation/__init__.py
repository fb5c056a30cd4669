"""Adapters for evaluation harnesses (lmms-eval). No other room imports this one."""
