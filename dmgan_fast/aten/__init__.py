"""Ops that PyTorch's own kernels run best somewhere, by an exact identity; parts of the cpu, cuda and aten backends."""
