"""FCOS's losses, against the formulas at the positive locations alone."""

import os

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F

from hrnet_d2.modeling.meta_arch.fcos.losses import BOX_LOSSES, fcos_losses, log_iou_loss

N, C, P = 2, 4, 50


def random_case(seed=0, positives=0.3):
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, C, (N, P), generator=g)
    labels[torch.rand(N, P, generator=g) > positives] = -1
    targets = torch.rand(N, P, 4, generator=g) * 50 + 1
    targets[labels < 0] = 1.0
    return {
        "logits": torch.randn(N, C, P, generator=g),
        "distances": torch.rand(N, P, 4, generator=g) * 50 + 1,
        "ctrness": torch.randn(N, P, generator=g),
        "labels": labels,
        "target_distances": targets,
    }


def corners(sides, points):
    return torch.cat([points - sides[:, :2], points + sides[:, 2:]], dim=1)


def plain_losses(case):
    """Class, box and centerness loss, gathered at positive locations."""
    loss_cls = 0.0
    for image in range(N):
        for location in range(P):
            for c in range(C):
                x = case["logits"][image, c, location]
                if case["labels"][image, location] == c:
                    loss_cls += -0.25 * (1 - x.sigmoid()) ** 2 * F.logsigmoid(x)
                else:
                    loss_cls += -0.75 * x.sigmoid() ** 2 * F.logsigmoid(-x)
    positive = case["labels"] >= 0
    count = int(positive.sum())
    left, top, right, bottom = case["target_distances"][positive].unbind(1)
    weights = (
        torch.minimum(left, right)
        / torch.maximum(left, right)
        * torch.minimum(top, bottom)
        / torch.maximum(top, bottom)
    ).sqrt()
    points = torch.rand(count, 2) * 100
    made = corners(case["distances"][positive], points)
    wanted = corners(case["target_distances"][positive], points)
    inter = torch.minimum(made[:, 2:], wanted[:, 2:]) - torch.maximum(made[:, :2], wanted[:, :2])
    inter = inter.clamp(min=0).prod(1)
    union = (made[:, 2:] - made[:, :2]).prod(1) + (wanted[:, 2:] - wanted[:, :2]).prod(1) - inter
    loss_loc = (weights * -(inter / union).log()).sum() / weights.sum()
    ctr = case["ctrness"][positive]
    loss_ctr = -(weights * F.logsigmoid(ctr) + (1 - weights) * F.logsigmoid(-ctr)).sum() / count
    return {
        "loss_fcos_cls": float(loss_cls / count),
        "loss_fcos_loc": float(loss_loc),
        "loss_fcos_ctr": float(loss_ctr),
    }


@pytest.mark.parametrize("seed", range(3))
def test_equal_formulas_at_positive_locations(seed):
    case = random_case(seed)
    losses, count = fcos_losses(**case)
    assert count == (case["labels"] >= 0).sum() > 0
    expected = plain_losses(case)
    assert losses.keys() == expected.keys()
    for name, loss in losses.items():
        assert loss.item() == pytest.approx(expected[name], rel=1e-4)


def test_background_regression_reaches_no_loss():
    case = random_case()
    expected, _ = fcos_losses(**case)
    background = case["labels"] < 0
    for value in (1e30, float("inf"), float("nan")):
        case["distances"] = torch.where(background[..., None], value, case["distances"])
        case["ctrness"] = torch.where(background, value, case["ctrness"])
        leaves = [case["distances"].requires_grad_(), case["ctrness"].requires_grad_()]
        losses, _ = fcos_losses(**case)
        for name, loss in losses.items():
            assert loss.item() == pytest.approx(expected[name].item(), rel=1e-6)
        for grad in torch.autograd.grad(sum(losses.values()), leaves):
            assert grad.isfinite().all() and not grad[background].any()
        case["distances"], case["ctrness"] = (leaf.detach() for leaf in leaves)


def test_no_positive_location():
    case = random_case(positives=-1.0)
    losses, count = fcos_losses(**case)
    assert count == 0
    assert losses["loss_fcos_loc"] == losses["loss_fcos_ctr"] == 0
    assert losses["loss_fcos_cls"] > 0


def test_log_iou_is_bounded_for_boxes_apart():
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]], requires_grad=True)
    loss = log_iou_loss(boxes, torch.tensor([[5.0, 5.0, 6.0, 6.0]]))
    assert loss.item() == pytest.approx(13.8155, abs=1e-3)  # -ln 1e-6
    (grad,) = torch.autograd.grad(loss.sum(), boxes)
    assert grad.isfinite().all()


@pytest.mark.parametrize("name", BOX_LOSSES)
def test_box_losses_vanish_for_equal_boxes_and_grow_with_the_gap(name):
    target = torch.tensor([[-10.0, -10.0, 10.0, 10.0]])
    gaps = [BOX_LOSSES[name](target + shift, target).item() for shift in (0.0, 4.0, 8.0)]
    assert gaps[0] == pytest.approx(0, abs=1e-5)
    assert gaps[0] < gaps[1] < gaps[2]


def _rank(rank: int, path: str, out) -> None:
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
    try:
        losses, _ = fcos_losses(**random_case(rank, positives=[0.1, 0.8][rank]))
        out[rank] = {name: loss.item() for name, loss in losses.items()}
    finally:
        dist.destroy_process_group()


def test_divisors_are_means_over_ranks(tmp_path):
    """Mean of two ranks' losses = the losses of both ranks' images in one batch."""
    with mp.Manager() as manager:
        out = manager.dict()
        mp.spawn(_rank, args=(os.fspath(tmp_path / "store"), out), nprocs=2)
        ranks = [out[0], out[1]]
    cases = [random_case(rank, positives=[0.1, 0.8][rank]) for rank in range(2)]
    both = {name: torch.cat([case[name] for case in cases]) for name in cases[0]}
    together, _ = fcos_losses(**both)
    alone = [fcos_losses(**case)[0] for case in cases]
    for name, loss in together.items():
        assert (ranks[0][name] + ranks[1][name]) / 2 == pytest.approx(loss.item(), rel=1e-5)
        # Divided by its own count, a rank would have a different loss.
        assert ranks[0][name] != pytest.approx(alone[0][name].item(), rel=1e-2)
