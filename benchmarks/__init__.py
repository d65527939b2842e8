"""Benchmarks: ``python -m benchmarks.<name> [--json FILE]``; a wrong result is never timed."""
