"""Exact closed-form scores of diffusion models under architectural constraints."""

__version__ = "0.1.0"
