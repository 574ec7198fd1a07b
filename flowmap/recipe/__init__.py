"""The recipe: its tables, what is wrong with it and where, what it refers to outside, the layout of its run.

Torch-free. May be imported by every room from `training` on.
"""
