"""Metrics of predictions."""

from .coco_evaluation import FastCOCOEvaluator, build_evaluator

__all__ = ["FastCOCOEvaluator", "build_evaluator"]
