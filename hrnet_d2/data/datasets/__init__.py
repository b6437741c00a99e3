"""Datasets: custom COCO files, COCO with stuff maps, built-in shapes."""
