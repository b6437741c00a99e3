"""Predictions on anything, written as anything: what ``hrnet-d2 predict`` runs.

Detections from Python, as objects of other libraries::

    from hrnet_d2.prediction import to_coco, to_supervision

    output = predictor("photo.jpg")
    detections = to_supervision(output, predictor.metadata.thing_classes)
"""

from .convert import to_coco, to_supervision
from .detector import Detector
from .result import Prediction

__all__ = ["Detector", "Prediction", "to_coco", "to_supervision"]
