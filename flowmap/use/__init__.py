"""What is done with a trained student: measure, sample, export; and with data: encode.

May be imported by `launch` and `cli`.
"""
