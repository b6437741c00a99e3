"""Types and backends by what the processor can."""

import logging

import pytest
import torch

from hrnet_d2.inference import choosing, optimize, processor


@pytest.mark.parametrize(("seconds", "best"), [((1.0, 2.0), "a"), ((2.0, 1.0), "b"), ((1, 1), "a")])
def test_the_faster_wins_and_the_first_of_equals(monkeypatch, seconds, best, caplog):
    models = dict(zip("ab", (torch.nn.Identity(), torch.nn.Identity()), strict=True))
    times = {id(model): s for model, s in zip(models.values(), seconds, strict=True)}
    monkeypatch.setattr(choosing, "dense_seconds", lambda model: times[id(model)])
    with caplog.at_level(logging.INFO, "hrnet_d2"):
        assert choosing.faster_of(models, optimize.running) == best
    assert f"{best} runs" in caplog.text


@pytest.mark.parametrize("fast", [True, False])
def test_auto_is_bfloat16_where_the_processor_has_it(monkeypatch, fast):
    monkeypatch.setattr(optimize, "has_fast_bfloat16", lambda device: fast)
    found = optimize._dtype_for("auto", torch.device("cpu"))
    assert found == (torch.bfloat16 if fast else None)


def test_slow_float16_is_said(monkeypatch, caplog):
    monkeypatch.setattr(optimize, "has_fast_float16", lambda device: False)
    with caplog.at_level(logging.WARNING, "hrnet_d2"):
        assert optimize._dtype_for("float16", torch.device("cpu")) == torch.float16
    assert "no instructions for float16" in caplog.text


def test_processors_without_the_probes(monkeypatch):
    for name in ("avx512_bf16", "amx_tile", "amx_fp16"):
        monkeypatch.delattr(torch.cpu, f"_is_{name}_supported", raising=False)
    assert not processor.has_fast_bfloat16("cpu")
    assert not processor.has_fast_float16("cpu")
    assert processor.has_fast_float16("cuda")
