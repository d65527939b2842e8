"""Benchmarks; a wrong result is never timed.

Every file here that is not named below is a command, ``python -m benchmarks.<name> --help``; so are ``ops`` and
``report``. ``common``: command line, rows, machine, tables. ``harness``: a case, its gate, its timing. ``models``:
whole models with a batch. ``ops/``: a file for each op. ``authors/``: the authors' formulation. ``report/``: pages and
tables of the committed ``results/``. ``gpu/``: the stages of ``card``. ``test_ops`` (with ``conftest``): the cases of
``ops`` under pytest-benchmark. ``asked``: what ``against`` runs in its processes.
"""
