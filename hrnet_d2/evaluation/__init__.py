"""Metrics of predictions on COCO-style datasets."""

from .coco_evaluation import CheckedCOCOEvaluator, FastCOCOEvaluator, build_evaluator

__all__ = ["CheckedCOCOEvaluator", "FastCOCOEvaluator", "build_evaluator"]
