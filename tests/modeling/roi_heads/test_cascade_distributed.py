"""Two processes, one of which has no objects to learn from: no parameter may be unused."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from detectron2.engine import create_ddp_model, launch
from detectron2.utils import comm

from tests.modeling.roi_heads.tiny_cascade import (
    tiny_config,
    tiny_input,
    tiny_model,
    training_losses,
)

ITERATIONS = 3
FAMILIES = ("cascade_mask", "htc")


def train_all(folder: Path) -> None:
    torch.set_num_threads(1)
    for family in FAMILIES:
        train(family, folder / family)
    # else its threads may outlive the interpreter, which aborts the process now and then; with
    # PyTorch 2.4 also if one process has gone before the other has finished
    dist.barrier()
    dist.destroy_process_group()


def train(family: str, path: Path) -> None:
    """Some steps; in the second process images have neither objects nor semantic maps."""
    model = create_ddp_model(tiny_model(tiny_config(family)), device_ids=None)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for i in range(ITERATIONS):
        # they alternate, so that both get every kind of image
        plain = (i + comm.get_rank()) % 2 == 0
        record = tiny_input(i) if plain else tiny_input(i, boxes=(), sem_seg=False)
        losses = training_losses(model, [record])
        optimizer.zero_grad()
        # DistributedDataParallel raises in the next step if a parameter was unused
        sum(losses.values()).backward()
        optimizer.step()
    weights = torch.cat([p.detach().flatten() for p in model.parameters()])
    everywhere = comm.all_gather(weights)
    if comm.is_main_process():
        torch.save(everywhere, path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of each family's weights in both processes, which import PyTorch once."""
    folder = tmp_path_factory.mktemp("weights")
    launch(train_all, 2, dist_url="auto", args=(folder,))
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_ranks_stay_in_sync(family, trained):
    one, other = torch.load(trained / family, weights_only=True)
    assert torch.equal(one, other) and torch.isfinite(one).all()
    before = torch.cat([p.flatten() for p in tiny_model(tiny_config(family)).parameters()])
    assert not torch.equal(one, before)
