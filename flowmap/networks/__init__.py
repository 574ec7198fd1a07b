"""Networks asked as objectives and samplers ask them: guided, differentiated in time, rolled out chunk by chunk.

May be imported by `training`, `use` and plugins.
"""
