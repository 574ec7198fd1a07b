"""Weights that others made, and what can be known of them unread: names, files, shapes, fingerprints, what is missing.

Torch-free: `flowmap check` reads nothing but headers. May be imported by every room from `recipe` on, and by plugins.
"""
