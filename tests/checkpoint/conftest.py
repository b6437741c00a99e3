from tests.depth import shallow, whole  # noqa: F401 (fixtures)
