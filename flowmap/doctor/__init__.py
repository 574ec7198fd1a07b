"""What this machine has for flowmap and what it lacks: `flowmap doctor`.

`examine` collects all of it, `text` says it. Nothing is downloaded, and nothing is written.
"""
