"""Everything that needs an accelerator, in order of value: `python -m tests.gpu`."""
