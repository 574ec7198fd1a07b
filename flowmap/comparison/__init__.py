"""Contestants under one budget: the specification, the runs, what they show, the page.

May be imported by `cli` alone.
"""
