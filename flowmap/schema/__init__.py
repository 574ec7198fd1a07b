"""What a configuration is made of: words, bounds of numbers, the class that refuses what it does not know.

Torch-free. May be imported by every room above `console`; a third party imports from `flowmap.plugin` instead.
"""
