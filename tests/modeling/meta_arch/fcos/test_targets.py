"""Assignment of FCOS's locations, against a plain loop over locations and objects."""

import math

import pytest
import torch
from detectron2.structures import Boxes, Instances

from hrnet_d2.modeling.meta_arch.fcos.targets import (
    assign_locations,
    centerness_of,
    level_locations,
    pad_objects,
)

STRIDES = [8, 16, 32]
SIZES = [(12, 16), (6, 8), (3, 4)]  # of a 96 x 128 image
RANGES = [(0.0, 24.0), (24.0, 48.0), (48.0, math.inf)]


def locations():
    """Points (P, 2), their strides (P,) and ranges (P, 2)."""
    counts = torch.tensor([h * w for h, w in SIZES])
    return (
        level_locations(SIZES, STRIDES, torch.device("cpu")),
        torch.tensor(STRIDES).float().repeat_interleave(counts),
        torch.tensor(RANGES).repeat_interleave(counts, dim=0),
    )


def plain_assignment(boxes, radius):
    """For each location, level by level and row by row: (object or -1, its four distances)."""
    result = []
    for (rows, columns), stride, (low, high) in zip(SIZES, STRIDES, RANGES, strict=True):
        for row in range(rows):
            for column in range(columns):
                x, y = (column + 0.5) * stride, (row + 0.5) * stride
                best, best_area, best_sides = -1, math.inf, None
                for i, (x1, y1, x2, y2) in enumerate(boxes):
                    sides = (x - x1, y - y1, x2 - x, y2 - y)
                    if min(sides) <= 0 or not low <= max(sides) <= high:
                        continue
                    if radius > 0:
                        cx, cy = (x1 + x2) / 2, (y1 + y2) / 2
                        if max(abs(x - cx), abs(y - cy)) >= radius * stride:
                            continue
                    if (x2 - x1) * (y2 - y1) < best_area:
                        best, best_area, best_sides = i, (x2 - x1) * (y2 - y1), sides
                result.append((best, best_sides))
    return result


def random_boxes(seed, count):
    """Corners on a grid of 4 pixels, so that locations fall on borders, distances on the bounds of
    the ranges, and areas tie; some without area, some beyond the image."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.randint(-4, 36, (count, 2, 2), generator=generator).float() * 4
    low, high = corners.min(dim=1).values, corners.max(dim=1).values
    return torch.cat([low, high], dim=1)


@pytest.mark.parametrize("radius", [0.0, 1.5])
@pytest.mark.parametrize("seed", range(12))
def test_random_boxes_equal_plain_loop(seed, radius):
    boxes = torch.stack([random_boxes(seed, 25), random_boxes(seed + 100, 25)])
    index, distances = assign_locations(*locations(), boxes, radius)
    positives = 0
    for image in range(2):
        expected = plain_assignment(boxes[image].tolist(), radius)
        assert index[image].tolist() == [best for best, _ in expected]
        for made, (best, sides) in zip(distances[image].tolist(), expected, strict=True):
            assert made == (list(sides) if best >= 0 else [1.0] * 4)
            positives += best >= 0
    assert positives > 20  # the case says something


def test_random_boxes_cover_borders_bounds_and_ties():
    """The random boxes above do cover the edge cases that they are meant to."""
    points, _, ranges = locations()
    on_border = on_bound = ties = 0
    for seed in range(12):
        boxes = random_boxes(seed, 25)
        sides = torch.cat([points[:, None] - boxes[:, :2], boxes[:, 2:] - points[:, None]], -1)
        nearest, farthest = sides.amin(-1), sides.amax(-1)
        on_border += int((nearest == 0).sum())
        on_bound += int(((farthest[..., None] == ranges[:, None]).any(-1) & (nearest > 0)).sum())
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(-1)
        ties += len(areas) - len(areas.unique())
    assert min(on_border, on_bound, ties) > 10


def test_bounds_are_inclusive_and_borders_are_outside():
    points = torch.tensor([[20.0, 20.0]])
    strides, ranges = torch.tensor([8.0]), torch.tensor([[12.0, 24.0]])

    def taken(*box):
        return assign_locations(points, strides, ranges, torch.tensor([[box]]))[0].item() == 0

    assert taken(8.0, 10.0, 30.0, 30.0)  # largest distance 12, the lower bound
    assert not taken(8.5, 10.0, 30.0, 30.0)
    assert taken(10.0, 10.0, 44.0, 30.0)  # 24, the upper bound
    assert not taken(10.0, 10.0, 44.5, 30.0)
    assert not taken(20.0, 10.0, 40.0, 30.0)  # on the left side
    assert not taken(0.0, 0.0, 40.0, 20.0)  # on the bottom


def test_ties_go_to_first_object():
    points, strides, ranges = locations()
    box = torch.tensor([16.0, 16.0, 40.0, 40.0])
    other = torch.tensor([20.0, 16.0, 44.0, 40.0])  # the same area
    index, _ = assign_locations(points, strides, ranges, torch.stack([other, box, other])[None])
    inside_both = (points[:, 0] > 20) & (points[:, 0] < 40) & (points[:, 1] > 16)
    inside_both &= (points[:, 1] < 40) & (ranges[:, 1] == 24)
    assert inside_both.sum() > 0
    assert (index[0][inside_both] == 0).all()
    assert (index != 2).all()


@pytest.mark.parametrize("max_pairs", [1, 1000, 2500])
def test_many_boxes_in_pieces_equal_all_at_once(max_pairs):
    boxes = torch.stack([random_boxes(1, 300), random_boxes(2, 300)])
    expected = assign_locations(*locations(), boxes)
    made = assign_locations(*locations(), boxes, max_pairs=max_pairs)
    assert torch.equal(made[0], expected[0])
    assert torch.equal(made[1], expected[1])


def test_memory_is_limited_with_thousands_of_boxes():
    """No tensor is much larger than the pairs compared at a time, whatever the objects."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, (tuple, list)) else [out]:
                if isinstance(tensor, torch.Tensor):
                    self.numel = max(self.numel, tensor.numel())
            return out

    boxes = random_boxes(0, 20000)[None]
    points, strides, ranges = locations()
    with Largest() as largest:
        assign_locations(points, strides, ranges, boxes, max_pairs=100_000)
    assert largest.numel <= 100_000 < len(points) * boxes.shape[1]


def test_images_without_objects_are_padded():
    """Images with few or no objects in a batch with many: each as it would be alone."""
    boxes = [random_boxes(5, 9), torch.zeros(0, 4), random_boxes(6, 2)]
    instances = []
    for tensor in boxes:
        instances.append(Instances((96, 128)))
        instances[-1].gt_boxes = Boxes(tensor)
        instances[-1].gt_classes = torch.arange(len(tensor))
    padded, classes = pad_objects(instances)
    assert padded.shape == (3, 9, 4) and classes.shape == (3, 9)
    index, distances = assign_locations(*locations(), padded)
    for i, tensor in enumerate(boxes):
        alone = assign_locations(*locations(), pad_objects([instances[i]])[0])
        assert torch.equal(index[i], alone[0][0])
        assert torch.equal(distances[i], alone[1][0])
        assert index[i].max() < max(1, len(tensor))
    assert (index[1] == -1).all()


def test_object_between_locations_matches_none():
    index, _ = assign_locations(*locations(), torch.tensor([[[5.0, 5.0, 7.0, 7.0]]]))
    assert (index == -1).all()


def test_locations_follow_the_features_sizes():
    points = level_locations([(2, 3), (1, 1)], [8, 128], torch.device("cpu"))
    expected = [[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12], [64, 64]]
    assert points.tolist() == expected


def test_centerness():
    sides = torch.tensor([[4.0, 6.0, 4.0, 6.0], [1.0, 9.0, 4.0, 1.0]])
    assert centerness_of(sides).tolist() == pytest.approx([1.0, math.sqrt(1 / 4 * 1 / 9)])
