"""The table of models: complete, quoted rightly, found by name, and rendered as committed."""

import importlib.util
import re
from pathlib import Path

import pytest

from hrnet_d2 import model_zoo
from hrnet_d2.checkpoint import CheckpointError
from tests.configs import LEAVES

ROOT = Path(__file__).parents[1]


def test_the_table_has_every_config():
    assert sorted(model_zoo.list_models()) == sorted(LEAVES)


@pytest.mark.parametrize("name", LEAVES)
def test_every_row(name):
    row = model_zoo.info(name)
    stem = Path(name).stem
    later = row.get("later", {"url": None, "source": None})
    for url in filter(None, (row["url"], later["url"])):
        # Named after its config (or, for its width, after no other) with date and digest
        assert re.fullmatch(
            rf"https://[^/]+/.*/{stem}/{stem}_\d{{8}}(_\d{{6}})?-[0-9a-f]{{8}}\.pth", url
        )
    has_masks = name.startswith(("mask", "cascade_mask", "htc"))
    assert (row["mask_ap"] is not None) == (has_masks and row["box_ap"] is not None)
    assert row["source"] in (*model_zoo.sources(), None)
    assert (row["source"] == "mmdet-1.x") == (row["url"] is None and row["box_ap"] is not None)
    if "_w48_" in name or "x101" in name:
        assert row["url"] is None  # published by 1.x alone
    cfg = model_zoo.get_config(name)
    if width := re.search(r"_w(\d+)_", name):
        assert cfg.MODEL.HRNETV2P.WIDTH == int(width[1])


def test_published_numbers():
    """Spot checks against MMDetection's tables."""
    for name, box, mask in [
        ("faster_rcnn_hrnetv2p_w40_1x_coco", 41.2, None),
        ("faster_rcnn_hrnetv2p_w48_2x_coco", 41.5, None),
        ("mask_rcnn_hrnetv2p_w32_2x_coco", 42.5, 37.8),
        ("cascade_mask_rcnn_hrnetv2p_w40_20e_coco", 45.1, 39.3),
        ("htc_hrnetv2p_w40_20e_coco", 46.4, 40.8),
        ("htc_hrnetv2p_w40_28e_coco", None, None),
        ("fcos_hrnetv2p_w18_gn-head_4x4_1x_coco", 35.1, None),
    ]:
        row = model_zoo.info(name)
        assert (row["box_ap"], row["mask_ap"]) == (box, mask), name
    assert model_zoo.info("fcos_hrnetv2p_w18_gn-head_4x4_1x_coco")["later"]["box_ap"] == 35.3
    assert len(model_zoo.list_models(trained=True)) == 28


@pytest.mark.parametrize(
    "form",
    [
        "faster_rcnn/faster_rcnn_hrnetv2p_w18_1x_coco.yaml",
        "faster_rcnn/faster_rcnn_hrnetv2p_w18_1x_coco",
        "faster_rcnn_hrnetv2p_w18_1x_coco.yaml",
        "faster_rcnn_hrnetv2p_w18_1x_coco",
    ],
)
def test_forms_of_a_name(form):
    assert model_zoo.get_checkpoint_url(form).endswith("coco_20200130-56651a6d.pth")
    assert model_zoo.get_config_file(form).endswith("configs/" + LEAVES[0])
    cfg = model_zoo.get_config(form)
    assert "hrnetv2_w18-00eb2006.pth" in cfg.MODEL.WEIGHTS
    assert model_zoo.get_config(form, trained=True).MODEL.WEIGHTS.endswith("56651a6d.pth")


@pytest.mark.parametrize("ask", ["info", "get_checkpoint_url", "get_config", "get"])
def test_an_unknown_name_suggests_the_nearest(ask):
    with pytest.raises(RuntimeError, match="faster_rcnn_hrnetv2p_w18_1x_coco.yaml"):
        getattr(model_zoo, ask)("faster_rcnn_hrnetv2_w18_1x_coco")
    with pytest.raises(RuntimeError, match=r"'mine/nope\.yaml' is not a file.*model zoo"):
        model_zoo.load_config("mine/nope.yaml")
    with pytest.raises(RuntimeError, match="list_models"):
        getattr(model_zoo, ask)("xyz")


def test_a_model_without_checkpoint_names_those_that_have_one():
    with pytest.raises(RuntimeError, match="faster_rcnn_hrnetv2p_w40_2x_coco"):
        model_zoo.get_checkpoint_url("faster_rcnn_hrnetv2p_w48_1x_coco")
    with pytest.raises(RuntimeError, match="htc_hrnetv2p_w48_20e_20190810-f6d2c3fd.pth"):
        model_zoo.get("htc_hrnetv2p_w48_20e_coco", trained=True)
    with pytest.raises(RuntimeError, match="No checkpoint was published"):
        model_zoo.get_config("htc_hrnetv2p_w40_28e_coco", trained=True)


def test_patterns():
    assert len(model_zoo.list_models("fcos*")) == len(model_zoo.list_models("fcos/*")) == 8
    assert len(model_zoo.list_models("*w18*")) == 10
    assert model_zoo.list_models("htc_x101*.yaml") == ["htc/htc_x101_64x4d_fpn_28e_coco.yaml"]
    assert model_zoo.list_models("nothing*") == []


def test_get_builds_without_a_network():
    model = model_zoo.get("faster_rcnn_hrnetv2p_w18_1x_coco", device="cpu")
    assert model.backbone.bottom_up.transition1[0][0].weight.shape[0] == 18
    assert model.training and model.device.type == "cpu"


def test_the_page_is_the_data():
    path = ROOT / "tools" / "build_model_zoo.py"
    spec = importlib.util.spec_from_file_location("build_model_zoo", path)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert (ROOT / "MODEL_ZOO.md").read_text(encoding="utf-8") == tool.render(), (
        "run tools/build_model_zoo.py"
    )
    assert tool.main(["--check"]) == 0
    for name in model_zoo.list_models():
        assert f"]: configs/{name}\n" in tool.render()
        url = model_zoo.info(name)["url"]
        assert url is None or f"]: {url}\n" in tool.render()


MARCH = ([102.9801, 115.9465, 122.7717], [1.0, 1.0, 1.0])
MARCH_MULTI_SCALE = ([103.53, 116.28, 123.675], [1.0, 1.0, 1.0])
DECEMBER = ([103.53, 116.28, 123.675], [57.375, 57.12, 58.395])


@pytest.mark.parametrize("name", [name for name in LEAVES if name.startswith("fcos")])
def test_the_input_of_each_fcos_file(name):
    row = model_zoo.info(name)
    if row["url"] is None:
        assert "_w48_" in name
    else:
        cfg = model_zoo.get_config(name, trained=True)
        expected = MARCH_MULTI_SCALE if "mstrain" in name else MARCH
        assert (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD) == expected
        assert (cfg.INPUT.FORMAT, cfg.MODEL.FCOS.TOPK_BY) == ("BGR", "locations")
        keys = model_zoo.published_file(row["later"]["url"])["keys"]
        assert (keys["MODEL.PIXEL_MEAN"], keys["MODEL.PIXEL_STD"]) == DECEMBER
    # Without a file the leaf has the input of the newest.
    plain = model_zoo.get_config(name)
    assert (plain.MODEL.PIXEL_MEAN, plain.MODEL.PIXEL_STD) == DECEMBER


def test_files_of_1x_are_listed_with_their_numbers():
    first = {name: row["v1"] for name in LEAVES if "v1" in (row := model_zoo.info(name))}
    assert len(first) == 30
    digests = {re.search(r"-([0-9a-f]{8})\.pth$", file["url"])[1] for file in first.values()}
    assert len(digests) == 30
    for name, file in first.items():
        published = model_zoo.published_file(file["url"])
        assert published["config"] == name
        assert published["keys"]["MODEL.ARITHMETIC"] == "mmdet1"
    w48 = first["htc/htc_hrnetv2p_w48_28e_coco.yaml"]
    assert w48["url"].endswith("htc_hrnetv2p_w48_28e_20190810-a4274b38.pth")
    assert (w48["box_ap"], w48["mask_ap"]) == (47.0, 41.0)
    assert model_zoo.published_file("mine-0badf00d.pth") is None


def test_a_folder_is_no_trained_model(tmp_path):
    with pytest.raises(CheckpointError, match="it is a folder; give the checkpoint in it"):
        model_zoo.config_of(tmp_path)
    for name in ("detector.py", "settings.json"):
        (tmp_path / name).touch()
    with pytest.raises(CheckpointError, match="folder of `hrnet-d2 export`"):
        model_zoo.config_of(tmp_path)


@pytest.mark.parametrize("given", [None, 7, ["a.pth"]])
def test_what_is_no_name_is_refused(given):
    with pytest.raises(TypeError, match=f"a name of the model zoo; got {type(given).__name__}"):
        model_zoo.config_of(given)
