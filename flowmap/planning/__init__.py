"""What a recipe costs before it starts: calls, memory and time; and what is refused because it cannot fit.

May be imported by `launch`, `comparison` and `cli`.
"""
