#!/usr/bin/env python
r"""Train and evaluate the models of this package.

    python train_net.py --config-file configs/faster_rcnn/faster_rcnn_hrnetv2p_w18_1x_coco.yaml \
        --num-gpus 8
    python train_net.py --config-file ... --eval-only MODEL.WEIGHTS checkpoint.pth
    python train_net.py --config-file ... --train-data train.json images/ --val-data val.json \
        images/
    torchrun --nproc-per-node 8 train_net.py --config-file ...

Takes Detectron2's arguments; `python train_net.py --help` lists them. `hrnet-d2 train` and
`hrnet-d2 eval` do the same from the installed package.
"""

import sys

from hrnet_d2.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]], "train_net.py"))
