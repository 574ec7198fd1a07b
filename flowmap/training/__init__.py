"""Training one stage: its roles and optimisers, the loop, checkpoints, ledger, processes, the watchdog.

May be imported by every room from `reading` on.
"""
