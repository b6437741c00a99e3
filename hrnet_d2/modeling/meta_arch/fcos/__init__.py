"""FCOS: a one-stage detector without anchors."""
