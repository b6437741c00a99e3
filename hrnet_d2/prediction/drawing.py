"""Detections drawn on an image: by supervision if it is installed, else by Detectron2."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.utils.colormap import colormap

from .convert import to_supervision
from .result import Prediction

__all__ = ["Drawer"]

# Pixels of all masks of an image together; more are drawn from their run lengths.
MOST_MASK_PIXELS = 2**27


class Drawer:
    """Draws masks, boxes and labels; a class has the same color in all images."""

    def __init__(self, class_names: Sequence[str], colors: Sequence[Sequence[int]] = ()):
        """
        Args:
            class_names: by the number of the class.
            colors: RGB, 0 to 255, of the classes; without them a color map's.
        """
        self.class_names = list(class_names)
        self.colors = np.array(colors if len(colors) else colormap(rgb=True), dtype=int)
        try:
            import supervision

            self._supervision: Any = supervision
        except ImportError:
            self._supervision = None

    def __call__(self, image: np.ndarray, prediction: Prediction) -> np.ndarray:
        """
        Args:
            image: (H, W, 3) uint8 BGR; stays as it is.
            prediction: detections of the image.

        Returns:
            (H, W, 3) uint8 BGR.
        """
        if self._supervision is None:
            return self._by_detectron2(image, prediction)
        sv = self._supervision
        pixels = len(prediction) * prediction.height * prediction.width
        detections = to_supervision(prediction, compact=pixels > MOST_MASK_PIXELS)
        palette = sv.ColorPalette([sv.Color(*map(int, rgb)) for rgb in self.colors])
        dark = [sv.Color.BLACK if _is_bright(rgb) else sv.Color.WHITE for rgb in self.colors]
        # Lines and letters that can be seen in large images, and leave small ones visible.
        scale = max(image.shape[:2]) / 1000
        thickness = max(1, round(2 * scale))
        label = sv.LabelAnnotator(
            palette,
            text_color=sv.ColorPalette(dark),
            text_scale=min(2.0, max(0.35, 0.5 * scale)),
            text_thickness=max(1, round(scale)),
            text_padding=max(2, round(5 * scale)),
        )
        drawn = image.copy()
        if detections.mask is not None:
            drawn = sv.MaskAnnotator(palette, opacity=0.45).annotate(drawn, detections)
        drawn = sv.BoxAnnotator(palette, thickness=thickness).annotate(drawn, detections)
        drawn = label.annotate(drawn, detections, labels=self.labels(prediction))
        return drawn

    def labels(self, prediction: Prediction) -> list[str]:
        """The text at each detection: number of the track, class and score."""
        texts = []
        for i, (cls, score) in enumerate(zip(prediction.classes, prediction.scores, strict=True)):
            name = self.class_names[cls] if cls < len(self.class_names) else str(cls)
            track = "" if prediction.tracks is None else f"#{prediction.tracks[i]} "
            texts.append(f"{track}{name} {score:.2f}")
        return texts

    def _by_detectron2(self, image: np.ndarray, prediction: Prediction) -> np.ndarray:
        from detectron2.utils.visualizer import Visualizer  # and matplotlib, which takes a moment

        masks = None
        if prediction.masks is not None:
            masks = [prediction.mask(i) for i in range(len(prediction))]
        drawn = Visualizer(image[:, :, ::-1]).overlay_instances(
            boxes=prediction.boxes,
            masks=masks or None,
            labels=self.labels(prediction),
            assigned_colors=[self.colors[c % len(self.colors)] / 255 for c in prediction.classes],
        )
        pixels = drawn.get_image()[: image.shape[0], : image.shape[1], ::-1]
        return np.ascontiguousarray(pixels)


def _is_bright(rgb: np.ndarray) -> bool:
    return float(rgb @ [0.299, 0.587, 0.114]) > 140
