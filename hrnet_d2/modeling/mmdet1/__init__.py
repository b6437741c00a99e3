"""What MMDetection 1.x computes differently from 2.x, for inference.

1.x describes a box by the first and the last pixel that belong to it, so its width is
``x2 - x1 + 1``.  Here boxes are half-open: x2 and y2 are one larger than in 1.x.  Decoding, IoU,
NMS and the choice of a pyramid level are then the same formulas as in Detectron2, and a module
each holds what remains:

- :mod:`.boxes`: clipping, and the way to the original image and back by one factor;
- :mod:`.anchors`: anchors rounded to whole pixels, at the centers of their cells;
- :mod:`.pooling`: RoIAlign with two samples for each bin and axis, half a pixel further;
- :mod:`.rpn`, :mod:`.roi_heads`, :mod:`.fcos`: the networks' parts that clip and suppress, the last
  NMS among them, which runs on boxes of the original image;
- :mod:`.masks`: masks resized by OpenCV to whole pixels;
- :mod:`.meta_arch`: the factor of each image, and detections on the original image.

``MODEL.ARITHMETIC "mmdet1"`` selects them, see :mod:`hrnet_d2.modeling.arithmetic`.
"""

from . import anchors, fcos, meta_arch, roi_heads, rpn

__all__ = ["anchors", "fcos", "meta_arch", "roi_heads", "rpn"]
