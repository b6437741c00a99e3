"""The live page: one HTML file with its style and script inside."""

from hrnet_d2.pages import Page, build_page

from .decoding import FORMATS
from .model import Model
from .settings import Limits

__all__ = ["build_live_page"]

SCRIPTS = ("masks.js", "drawing.js", "stage.js", "camera.js", "main.js")


def build_live_page(model: Model, limits: Limits) -> Page:
    """The page of a model.

    Args:
        model: whose name and classes it shows; they are text for it, whatever is in them.
        limits: that it tells before it sends an image.
    """
    data = {
        "name": model.name,
        "classes": [category.name for category in model.categories],
        "ids": [category.id for category in model.categories],
        "masks": model.masks,
        "device": model.device,
        "imageBytes": limits.image_bytes,
        "formats": list(FORMATS),
    }
    return build_page(
        __package__,
        ("page.css",),
        SCRIPTS,
        texts={"TITLE": model.name},
        data={"DATA": data},
        sources="img-src blob:; connect-src 'self'; frame-ancestors 'none'",
    )
