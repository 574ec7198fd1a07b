"""The consoles of all commands: results go to `out`, what is wrong or doubtful to `err`."""

from rich.console import Console

out = Console()
err = Console(stderr=True)
