"""`python -m flowmap` is the `flowmap` command."""

from flowmap.cli import main

main()
