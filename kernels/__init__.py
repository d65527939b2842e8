"""Triton kernels, one file per op; installed as ``dmgan_fast.kernels``."""
