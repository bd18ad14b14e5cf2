"""Computations of which an accelerator may have a kernel of its own."""
