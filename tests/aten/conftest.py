"""No choice of a backend is remembered."""

from tests.ops.conftest import fresh_choices  # noqa: F401
