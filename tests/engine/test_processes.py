"""A Predictor in other processes and copies, and when memory runs out."""

import copy
import os
import pickle
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

import hrnet_d2
from hrnet_d2.engine import MemoryExhaustedError
from hrnet_d2.engine.memory import explain_out_of_memory
from tests.depth import WHOLE, of_depth
from tests.engine.tiny import tiny_config

IN_A_CHILD = """
import multiprocessing, sys
import numpy as np, torch
import hrnet_d2
from tests.engine.test_processes import boxes

def child(predictor, queue):
    queue.put(boxes(predictor))

if __name__ == "__main__":
    torch.set_num_threads(2)
    method, config = sys.argv[1:]
    cfg = hrnet_d2.model_zoo.load_config(config)
    predictor = hrnet_d2.Predictor(cfg, optimize=method == "fork")
    expected = boxes(predictor)
    context = multiprocessing.get_context(method)
    queue = context.SimpleQueue()
    process = context.Process(target=child, args=(predictor, queue))
    process.start()
    found = queue.get()
    process.join()
    assert process.exitcode == 0 and len(found) > 0
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)
    print("the same")
"""


def boxes(predictor):
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    return predictor(image)["instances"].pred_boxes.tensor.numpy()


@pytest.fixture(scope="module", autouse=True)
def whole_here():
    """As in the processes."""
    with of_depth(WHOLE):
        yield


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    cfg = tiny_config(folder)
    torch.manual_seed(0)
    torch.save({"model": build_model(cfg).state_dict()}, folder / "model.pth")
    cfg.MODEL.WEIGHTS = str(folder / "model.pth")
    (folder / "config.yaml").write_text(cfg.dump())
    return folder / "config.yaml"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_predicting_in_a_child_process(config, method, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(IN_A_CHILD)
    path = os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])
    result = subprocess.run(
        [sys.executable, str(script), method, str(config)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert result.returncode == 0 and "the same" in result.stdout, result.stderr[-2000:]
    assert ("predicts on one thread" in result.stderr) == (method == "fork")


def test_copies_predict_the_same(config):
    predictor = hrnet_d2.Predictor(hrnet_d2.model_zoo.load_config(str(config)), optimize=False)
    expected = boxes(predictor)
    for other in (copy.deepcopy(predictor), pickle.loads(pickle.dumps(predictor))):
        assert np.array_equal(boxes(other), expected)
        assert other.metadata.as_dict() == predictor.metadata.as_dict()


def test_out_of_memory_names_the_task_and_the_keys(config):
    predictor = hrnet_d2.Predictor(hrnet_d2.model_zoo.load_config(str(config)), optimize=False)
    predictor.model.forward = lambda inputs: torch.empty(2**55)
    with pytest.raises(MemoryExhaustedError) as error:
        predictor(np.zeros((64, 96, 3), np.uint8))
    message = str(error.value)
    assert "predicting on 1 images at once, the first of 64 x 96" in message
    assert "bytes did not fit" in message
    assert all(word in message for word in ("batch_size", "INPUT.MIN_SIZE_TEST", "OPTIMIZE.DTYPE"))


def fail(error):
    with explain_out_of_memory("testing", "KEY"):
        raise error


def test_errors_of_a_gpu_and_others():
    with pytest.raises(MemoryExhaustedError, match=r"of the GPU ran out while testing.*2.00 GiB"):
        fail(torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    with pytest.raises(MemoryExhaustedError, match="of this machine.*99 bytes"):
        fail(cv2.error("(-4:Insufficient memory) Failed to allocate 99 bytes"))
    with pytest.raises(RuntimeError, match="^shapes differ$"):
        fail(RuntimeError("shapes differ"))
