"""`python -m flowmap` is the `flowmap` command."""

from flowmap.cli.main import main

if __name__ == "__main__":
    main()
