"""What a person at a terminal meets: bars and phases, the signs a terminal can take, commands to type, signals.

May be imported by every room above `files`; knows nothing of recipes.
"""
