"""The folder of a run as its readers see it, and how the run goes.

May be imported by `planning`, `use`, `report`, `launch` and `comparison`.
"""
