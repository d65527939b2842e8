from tests.sampling.conftest import sampler, weights  # noqa: F401
