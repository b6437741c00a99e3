"""ROI heads: boxes and masks, single-stage, cascade and Hybrid Task Cascade."""
