"""Files and folders: text that anybody may have written, folders with one writer, tensors kept on disk.

Nothing here knows what flowmap is for. May be imported by every room; imports errors and phases alone.
"""
