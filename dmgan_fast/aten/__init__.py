"""Ops that PyTorch's own kernels run best on CPUs, by an exact identity; part of the cpu backend."""
