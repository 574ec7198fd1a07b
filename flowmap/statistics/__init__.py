"""What may be said of scores: quantiles, intervals that hold together, one rule for every claim.

Torch-free. May be imported by `reading`, `report` and `comparison`.
"""
