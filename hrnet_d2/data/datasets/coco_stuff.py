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
from detectron2.utils.file_io import PathManager

__all__ = ["register_coco_stuffthing"]

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
        )
