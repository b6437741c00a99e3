"""COCO 2017 instances with stuff-and-thing maps, for HTC's semantic branch.

Registers ``coco_2017_train_stuffthing`` and ``coco_2017_val_stuffthing``: the instances and
images of Detectron2's ``coco_2017_train`` and ``coco_2017_val``, with the maps of COCO-Stuff
(https://github.com/nightrome/cocostuff, stuffthingmaps_trainval2017.zip) in

    $DETECTRON2_DATASETS/coco/stuffthingmaps/{train2017,val2017}/NAME.png

A pixel's value is the COCO category id minus one, for things too; 255 is ignored. The greatest
label is 181; the published models have 183 outputs.
"""

import logging
import os

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from detectron2.utils.colormap import colormap
from detectron2.utils.file_io import PathManager

__all__ = ["STUFF_CLASSES", "register_coco_stuffthing", "stuff_colors"]

# Names of the categories 1 to 182 of COCO-Stuff, by label (id - 1). Things come first, with those
# that COCO has no annotations of (12 street sign, 26 hat, ...).
_NAMES = """
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire
hydrant, street sign, stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow,
elephant, bear, zebra, giraffe, hat, backpack, umbrella, shoe, eye glasses, handbag, tie,
suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard,
surfboard, tennis racket, bottle, plate, wine glass, cup, fork, knife, spoon, bowl, banana,
apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted
plant, bed, mirror, dining table, window, desk, toilet, door, tv, laptop, mouse, remote,
keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, blender, book, clock, vase,
scissors, teddy bear, hair drier, toothbrush, hair brush, banner, blanket, branch, bridge,
building-other, bush, cabinet, cage, cardboard, carpet, ceiling-other, ceiling-tile, cloth,
clothes, clouds, counter, cupboard, curtain, desk-stuff, dirt, door-stuff, fence, floor-marble,
floor-other, floor-stone, floor-tile, floor-wood, flower, fog, food-other, fruit,
furniture-other, grass, gravel, ground-other, hill, house, leaves, light, mat, metal,
mirror-stuff, moss, mountain, mud, napkin, net, paper, pavement, pillow, plant-other, plastic,
platform, playingfield, railing, railroad, river, road, rock, roof, rug, salad, sand, sea,
shelf, sky-other, skyscraper, snow, solid-other, stairs, stone, straw, structural-other, table,
tent, textile-other, towel, tree, vegetable, wall-brick, wall-concrete, wall-other, wall-panel,
wall-stone, wall-tile, wall-wood, water-other, waterdrops, window-blind, window-other, wood
"""
STUFF_CLASSES = [name.strip() for name in _NAMES.replace("\n", " ").split(",")]

logger = logging.getLogger(__name__)


def load_coco_stuffthing(json_file: str, image_root: str, map_root: str, name: str) -> list[dict]:
    """Instances of COCO with "sem_seg_file_name".

    If the folder of maps is missing, the records have none, and a model that needs them raises.
    """
    records = load_coco_json(json_file, image_root, name)
    if not PathManager.isdir(map_root):
        logger.warning(
            "There is no folder %s: dataset %s has no semantic maps. Unpack "
            "stuffthingmaps_trainval2017.zip of COCO-Stuff into its parent folder to train HTC",
            map_root,
            name,
        )
        return records
    for record in records:
        stem = os.path.splitext(os.path.basename(record["file_name"]))[0]
        record["sem_seg_file_name"] = os.path.join(map_root, stem + ".png")
    return records


def stuff_colors() -> list[list[int]]:
    """RGB, 0 to 255, for each label: Detectron2's where it has one, else of its color map."""
    theirs = {category["id"]: category["color"] for category in COCO_CATEGORIES}
    others = colormap(rgb=True, maximum=255).astype(int).tolist()
    return [
        list(theirs.get(label + 1, others[label % len(others)]))
        for label in range(len(STUFF_CLASSES))
    ]


def register_coco_stuffthing() -> None:
    """Register both datasets, unless they are registered already. Reads and writes no file."""
    for split in ("train", "val"):
        name = f"coco_2017_{split}_stuffthing"
        if name in DatasetCatalog.list():
            continue
        coco = MetadataCatalog.get(f"coco_2017_{split}")
        coco_root = os.path.dirname(coco.image_root)
        map_root = os.path.join(coco_root, "stuffthingmaps", os.path.basename(coco.image_root))
        arguments = (coco.json_file, coco.image_root, map_root, name)
        DatasetCatalog.register(name, lambda a=arguments: load_coco_stuffthing(*a))
        MetadataCatalog.get(name).set(
            json_file=coco.json_file,
            image_root=coco.image_root,
            sem_seg_root=map_root,
            ignore_label=255,
            evaluator_type="coco",
            thing_classes=coco.thing_classes,
            thing_colors=coco.thing_colors,
            thing_dataset_id_to_contiguous_id=coco.thing_dataset_id_to_contiguous_id,
            stuff_classes=STUFF_CLASSES,
            stuff_colors=stuff_colors(),
        )
