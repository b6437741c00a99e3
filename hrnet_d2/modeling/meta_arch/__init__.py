"""Meta-architectures: FCOS and Hybrid Task Cascade."""
