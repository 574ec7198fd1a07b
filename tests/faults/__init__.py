"""Faults of many kinds, tried on small recipes: `python -m tests.faults`, of which docs/faults.md tells."""
