from tests.depth import shallow  # noqa: F401 (a fixture of every test)
