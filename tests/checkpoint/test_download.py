"""Addresses that moved, and files that are not there."""

import pytest

from hrnet_d2 import model_zoo
from hrnet_d2.checkpoint import CheckpointError, download


class Hosts:
    """A PathManager to which only one host answers."""

    def __init__(self, host, path):
        self.host, self.path, self.asked = host, path, []

    def get_local_path(self, address):
        self.asked.append(address)
        if self.host not in address:
            raise OSError("no answer")
        return self.path

    def isfile(self, path):
        return True


def test_files_of_the_first_host_are_sought_where_they_are_now(monkeypatch, tmp_path):
    file = tmp_path / "x.pth"
    file.write_bytes(b"x")
    hosts = Hosts("download.openmmlab.com", str(file))
    monkeypatch.setattr(download, "PathManager", hosts)
    monkeypatch.setattr(download, "check_digest", lambda *_: None)
    url = model_zoo.get_checkpoint_url("mask_rcnn_hrnetv2p_w18_1x_coco")
    assert download.fetch(url) == str(file)
    path = url.split("amazonaws.com")[1]
    assert hosts.asked == [url, f"https://download.openmmlab.com{path}"]


def test_the_digest_of_the_address_counts_for_the_file(monkeypatch, tmp_path):
    file = tmp_path / "x.pth"
    file.write_bytes(b"x")
    monkeypatch.setattr(download, "PathManager", Hosts("openmmlab", str(file)))
    with pytest.raises(CheckpointError, match="its name says 56651a6d"):
        download.fetch(model_zoo.get_checkpoint_url("faster_rcnn_hrnetv2p_w18_1x_coco"))


def test_the_third_host_is_asked_last(monkeypatch, tmp_path):
    file = tmp_path / "x.pth"
    file.write_bytes(b"x")
    hosts = Hosts("mmassets.onedl.ai", str(file))
    monkeypatch.setattr(download, "PathManager", hosts)
    monkeypatch.setattr(download, "check_digest", lambda *_: None)
    url = model_zoo.get_checkpoint_url("faster_rcnn_hrnetv2p_w18_2x_coco")
    assert url.startswith("https://download.openmmlab.com/mmdetection/v2.0/hrnet/")
    assert download.fetch(url) == str(file)
    assert hosts.asked == [url, url.replace("download.openmmlab.com", "mmassets.onedl.ai")]


def test_no_host_answers(monkeypatch):
    monkeypatch.setattr(download, "PathManager", Hosts("nobody", ""))
    with pytest.raises(CheckpointError, match="(?s)amazonaws.*no answer.*download.openmmlab.*hand"):
        download.fetch(model_zoo.get_checkpoint_url("faster_rcnn_hrnetv2p_w18_1x_coco"))
    with pytest.raises(CheckpointError, match="no answer") as error:
        download.fetch("weights.pth")
    assert "by hand" not in str(error.value)
