"""A live page and ``POST /predict``: ``hrnet-d2 serve``. Needs the extra ``serve``."""

try:
    import prometheus_client  # noqa: F401
    import python_multipart  # noqa: F401  of which Starlette says only later that it needs it
    import starlette  # noqa: F401
    import uvicorn  # noqa: F401
except ModuleNotFoundError as error:
    raise ImportError(f'Serving needs {error.name}: pip install "hrnet_d2[serve]"') from error

from .app import create_app
from .model import Category, Model, load_model
from .settings import Limits

__all__ = ["Category", "Limits", "Model", "create_app", "load_model"]
