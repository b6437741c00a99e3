#!/usr/bin/env python
r"""Draw a model's detections on images; `hrnet-d2 predict` from a checkout.

    python demo/demo.py --config-file configs/faster_rcnn/faster_rcnn_hrnetv2p_w18_1x_coco.yaml \
        --input a.jpg b.jpg folder/ --output drawn/ --opts MODEL.WEIGHTS checkpoint.pth
"""

import sys

from hrnet_d2.cli import main

if __name__ == "__main__":
    sys.exit(main(["predict", *sys.argv[1:]], "demo.py"))
