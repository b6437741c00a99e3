"""Parts of the inputs: disjoint, complete, the same wherever the folder lies."""

import shutil

import pytest

from hrnet_d2.config_file import ConfigError
from hrnet_d2.prediction.shards import Shard, parse_shard
from tests.prediction.models import encoded, predict, rows, write_pictures, write_tar, write_video

JSONL = ("--format", "jsonl,draw", "--confidence-threshold", "0")


def test_shards_are_disjoint_complete_and_even():
    names = [f"folder/{i:05d}.jpg" for i in range(4000)]
    for count in (1, 2, 7):
        shards = [Shard(i + 1, count) for i in range(count)]
        owners = [[shard.has(name) for shard in shards].count(True) for name in names]
        assert set(owners) == {1}
        sizes = [sum(map(shard.has, names)) for shard in shards]
        assert max(sizes) < 1.2 * min(sizes)


def test_shards_are_the_same_in_every_version():
    """Parts that ran last month must fit those that run now."""
    found = "".join(
        str(next(i for i in (1, 2, 3) if Shard(i, 3).has(f"{n}.jpg"))) for n in range(24)
    )
    assert found == "133323122312312321132313"


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "a/b", "1/0", "-1/4", "1/2/3"])
def test_what_is_no_shard(text, model, tmp_path, capsys):
    with pytest.raises(ConfigError, match="1/4, 2/4"):
        parse_shard(text)
    write_pictures(tmp_path, "a.png")
    assert predict(model, tmp_path, output=tmp_path / "out", extra=(f"--shard={text}",)) == 1
    assert "--shard" in capsys.readouterr().err


def test_shards_together_are_the_whole(model, tmp_path):
    write_pictures(tmp_path / "in", *(f"{i % 3}/{i}.png" for i in range(15)))
    write_video(tmp_path / "v.mp4", 3)
    write_tar(tmp_path / "t.tar", {f"{i}.png": encoded(i) for i in range(6)})
    inputs = [tmp_path / "in", tmp_path / "v.mp4", tmp_path / "t.tar"]
    assert predict(model, *inputs, output=tmp_path / "whole", extra=JSONL) == 0
    whole = {row["id"]: row for row in rows(tmp_path / "whole")}
    parts = []
    for i in (1, 2, 3):
        extra = (*JSONL, "--shard", f"{i}/3")
        assert predict(model, *inputs, output=tmp_path / "parts", extra=extra) == 0
        part = rows(tmp_path / "parts", f"-{i}-of-3")
        assert 0 < len(part) < len(whole)
        parts += part
    assert len(parts) == len(whole) == 24
    for row in parts:
        assert whole[row["id"]]["image"] == row["image"] and row["detections"]
    drawn = [
        sorted(
            p.relative_to(tmp_path / name).as_posix() for p in (tmp_path / name).rglob("*.??[g4]")
        )
        for name in ("whole", "parts")
    ]
    assert drawn[0] == drawn[1] and len(drawn[0]) == 22


def test_the_same_part_of_a_copy_elsewhere(model, tmp_path):
    write_pictures(tmp_path / "one" / "in", *(f"{i}.png" for i in range(12)))
    shutil.copytree(tmp_path / "one", tmp_path / "two" / "deeper")
    found = []
    for place in (tmp_path / "one", tmp_path / "two" / "deeper"):
        extra = (*JSONL, "--shard", "2/3")
        assert predict(model, place / "in", output=place / "out", extra=extra) == 0
        found.append(sorted(p.name for p in (place / "out").glob("*.png")))
    assert found[0] == found[1] and 0 < len(found[0]) < 12


def test_a_shard_goes_on_and_refuses_other_inputs(model, tmp_path, capsys):
    write_pictures(tmp_path / "in", *(f"{i}.png" for i in range(8)))
    extra = (*JSONL, "--shard", "1/2")
    assert predict(model, tmp_path / "in", output=tmp_path / "out", extra=extra) == 0
    assert predict(model, tmp_path / "in", output=tmp_path / "out", extra=(*extra, "--resume")) == 0
    assert "0 of 0 images" in capsys.readouterr().out.splitlines()[-1]
    write_pictures(tmp_path / "in", "more.png")
    assert predict(model, tmp_path / "in", output=tmp_path / "out", extra=(*extra, "--resume")) == 1
    assert "inputs of the shard" in capsys.readouterr().err
