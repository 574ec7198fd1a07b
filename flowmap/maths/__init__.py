"""The path between data and noise, pairs of times on it, distances, and the random numbers of a run.

Functions of tensors, without a network. May be imported by every room from `interfaces` on, and by plugins.
"""
