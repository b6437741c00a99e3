"""Metrics of predictions on COCO-style datasets."""

from .coco_evaluation import FastCOCOEvaluator, build_evaluator

__all__ = ["FastCOCOEvaluator", "build_evaluator"]
