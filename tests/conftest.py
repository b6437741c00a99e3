import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def threads():
    """Small tensors gain nothing from threads that compete with other tests."""
    torch.set_num_threads(2)
