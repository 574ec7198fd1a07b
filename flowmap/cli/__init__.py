"""The `flowmap` command. Imported by nobody.

Only the commands that compute import torch.
"""
