"""Layers that training and inference share."""
