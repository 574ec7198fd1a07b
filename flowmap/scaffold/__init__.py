"""A package of one's own to begin with: from a template of its kind, or as a copy of an installed component.

`packages.write_package` writes it; `templates/` has what is the same in all packages (`common`) and the modules of each
kind. Torch-free, but for the copy of a backbone: that is asked whether it takes class labels.
"""
