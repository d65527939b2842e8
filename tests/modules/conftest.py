from tests.modules.hub import hub  # noqa: F401
