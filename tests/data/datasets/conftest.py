import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog


@pytest.fixture(autouse=True)
def forget_datasets(monkeypatch, tmp_path):
    """Custom datasets go, with their cache, at the end of a test."""
    monkeypatch.setenv("HRNET_D2_CACHE", str(tmp_path / "cache"))
    before = set(DatasetCatalog.list())
    yield
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
