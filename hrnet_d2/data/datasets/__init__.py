"""Datasets: custom COCO files, COCO with stuff maps, the built-in shapes."""
