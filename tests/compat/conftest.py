import pytest

from tests.compat.setting import register_data


@pytest.fixture(scope="session", autouse=True)
def data(tmp_path_factory):
    """The datasets of the compatibility tests."""
    register_data(tmp_path_factory.mktemp("compat_data"))
