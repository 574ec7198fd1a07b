"""The folder of a run as its readers see it: its recipe, steps, scores, costs and claims.

May be imported by `planning`, `use`, `report`, `launch` and `comparison`.
"""
