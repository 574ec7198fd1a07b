"""Pictures and video in files, read as they are meant to be seen.

May be imported by plugins of data, by `use` and by whoever shows samples.
"""
