"""VBench: its prompts, an environment for its package, scores that are whole or refused, totals.

Torch-free: the package runs in an environment of its own, as another process. May be imported by reports and whatever
is above; imports files, video and statistics.
"""
