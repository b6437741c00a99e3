"""What tools/benchmark.py measures: one module for each task, and what they share."""
