from detectron2.config import LazyCall as L
from detectron2.data import (
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.data import transforms as T

from hrnet_d2.data import HRNetDatasetMapper, ResizeKeepRatio
from hrnet_d2.evaluation import FastCOCOEvaluator

dataloader = dict(
    train=L(build_detection_train_loader)(
        dataset=L(get_detection_dataset_dicts)(names="coco_2017_train"),
        mapper=L(HRNetDatasetMapper)(
            is_train=True,
            augmentations=[
                L(ResizeKeepRatio)(short_edge_length=[800], max_size=1333),
                L(T.RandomFlip)(horizontal=True),
            ],
            image_format="RGB",
            use_instance_mask=False,
            instance_mask_format="bitmask",
        ),
        total_batch_size=16,
        num_workers=4,
    ),
    test=L(build_detection_test_loader)(
        dataset=L(get_detection_dataset_dicts)(names="coco_2017_val", filter_empty=False),
        mapper=L(HRNetDatasetMapper)(
            is_train=False,
            augmentations=[L(ResizeKeepRatio)(short_edge_length=800, max_size=1333)],
            image_format="${...train.mapper.image_format}",
        ),
        num_workers=4,
    ),
    evaluator=L(FastCOCOEvaluator)(
        dataset_name="${..test.dataset.names}",
        masks="${..train.mapper.use_instance_mask}",
    ),
)
