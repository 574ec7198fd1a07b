"""Whole jobs: run a recipe from its first stage to its report, measure again, rehearse.

May be imported by `comparison` and `cli`.
"""
