"""flowmap: turn a many-step diffusion or flow-matching model into an any-step one."""

__version__ = "0.1.0"
