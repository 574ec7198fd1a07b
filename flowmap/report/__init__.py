"""The page of a run: its figures, and what all pages share.

Torch-free. May be imported by `launch`, `comparison` and `cli`.
"""
