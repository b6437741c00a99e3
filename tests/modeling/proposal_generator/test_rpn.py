import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_proposal_generator
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage

from hrnet_d2 import add_hrnet_config

STRIDES = (8, 16)


def build(name="MaxIoURPN", *overrides):
    cfg = get_cfg()
    add_hrnet_config(cfg)
    cfg.MODEL.PROPOSAL_GENERATOR.NAME = name
    cfg.MODEL.RPN.IN_FEATURES = ["p3", "p4"]
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32], [64]]
    cfg.merge_from_list(list(overrides))
    torch.manual_seed(0)
    shapes = {f"p{i}": ShapeSpec(channels=4, stride=2**i) for i in (3, 4)}
    return build_proposal_generator(cfg, shapes)


def features(height, width, batch=1):
    generator = torch.Generator().manual_seed(1)
    return {
        f"p{s.bit_length() - 1}": torch.randn(
            batch, 4, height // s, width // s, generator=generator
        )
        for s in STRIDES
    }


def targets(size, *boxes):
    instances = Instances(size)
    instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    return instances


def labels_of(rpn, maps, *instances):
    anchors = rpn.anchor_generator([maps["p3"], maps["p4"]])
    labels, boxes = rpn.label_and_sample_anchors(anchors, list(instances))
    return torch.cat([a.tensor for a in anchors]), labels, boxes


def test_anchors_of_the_batchs_padding_take_no_part():
    rpn = build("MaxIoURPN", "MODEL.RPN.BATCH_SIZE_PER_IMAGE", "1000000")
    maps = features(160, 160)
    anchors, (labels,), _ = labels_of(rpn, maps, targets((70, 50), [10, 10, 40, 40]))
    centers = (anchors[:, :2] + anchors[:, 2:]) / 2
    own = (centers[:, 0] < 64) & (centers[:, 1] < 96)  # padded to a multiple of 32
    assert (labels[~own] == -1).all()
    assert (labels[own] == 0).any() and (labels == 1).any()


def test_anchors_across_the_border_are_left_out_before_matching():
    box = [-16, 48, 16, 80]  # exactly an anchor that crosses the border
    maps = features(128, 128)
    arguments = ["MODEL.RPN.BATCH_SIZE_PER_IMAGE", "1000000", "MODEL.RPN.BOUNDARY_THRESH", "0"]
    anchors, (labels,), _ = labels_of(
        build("MaxIoURPN", *arguments), maps, targets((128, 128), box)
    )
    inside = Boxes(anchors).inside_box((128, 128))
    assert (labels[~inside] == -1).all()
    assert (labels == 1).any(), "the best anchor inside must be taken"
    _, (labels,), _ = labels_of(build("RPN", *arguments), maps, targets((128, 128), box))
    assert not (labels == 1).any(), "stock Detectron2 discards after matching"


def test_a_poorly_covered_object_takes_no_anchor():
    tiny = targets((128, 128), [50, 50, 53, 53])
    maps = features(128, 128)
    assert not (labels_of(build(), maps, tiny)[1][0] == 1).any()
    stock = build("MaxIoURPN", "MODEL.RPN.MIN_POS_IOU", "-1.0")
    assert (labels_of(stock, maps, tiny)[1][0] == 1).any()


def test_an_image_without_objects():
    _, (labels,), (boxes,) = labels_of(build(), features(128, 128), targets((128, 128)))
    assert set(labels.tolist()) == {-1, 0}
    assert boxes.shape == (len(labels), 4)


def losses_of(rpn, maps, *instances):
    images = ImageList(torch.zeros(len(instances), 3, 128, 128), [(128, 128)] * len(instances))
    rpn.train()
    with EventStorage(0):
        return rpn(images, maps, list(instances))[1]


def test_losses_are_divided_by_the_sampled_anchors():
    instances = [targets((128, 128), [10, 10, 60, 60]), targets((128, 128))]
    maps = features(128, 128, batch=2)
    everything = ["MODEL.RPN.BATCH_SIZE_PER_IMAGE", "1000000"]
    sampled = losses_of(build("MaxIoURPN", *everything), maps, *instances)
    configured = losses_of(
        build("MaxIoURPN", *everything, "MODEL.RPN.LOSS_NORMALIZER", "batch_size"),
        maps,
        *instances,
    )
    labels = torch.stack(labels_of(build("MaxIoURPN", *everything), maps, *instances)[1])
    count = (labels[0] >= 0).sum() + (labels[1] == 0).sum() + 1  # no positive counts as one
    for name in sampled:
        torch.testing.assert_close(sampled[name] * count, configured[name] * 2 * 10**6)


def test_all_keys_at_stock_values_is_detectron2s():
    instances = [targets((120, 100), [10, 10, 60, 60], [40, 20, 90, 110])]
    maps = features(128, 128)
    back = [
        "MODEL.RPN.MIN_POS_IOU", "-1.0",
        "MODEL.RPN.MATCH_VALID_ANCHORS", "False",
        "MODEL.RPN.LOSS_NORMALIZER", "batch_size",
    ]  # fmt: skip
    torch.manual_seed(3)
    ours = losses_of(build("MaxIoURPN", *back), maps, *instances)
    torch.manual_seed(3)
    theirs = losses_of(build("RPN"), maps, *instances)
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name])


def test_unknown_normalizer_is_named():
    with pytest.raises(ValueError, match="mean"):
        build("MaxIoURPN", "MODEL.RPN.LOSS_NORMALIZER", "mean")
