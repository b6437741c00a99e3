"""The tables of docs/compatibility.md: what a row is, and which test is which cell."""

from dataclasses import dataclass

__all__ = ["TABLES", "Row", "Table"]


@dataclass(frozen=True)
class Row:
    """A row: its text on the page, and the test whose parameters are the columns."""

    title: str
    test: str


@dataclass(frozen=True)
class Table:
    """``columns``: parameter of the tests to heading."""

    title: str
    text: str
    columns: dict[str, str]
    rows: tuple[Row, ...]

    def cells(self) -> list[str]:
        """The tests' ids, row by row."""
        return [f"{row.test}[{column}]" for row in self.rows for column in self.columns]


_FAMILIES = {
    "faster_rcnn": "Faster",
    "mask_rcnn": "Mask",
    "cascade_rcnn": "Cascade",
    "cascade_mask_rcnn": "Cascade Mask",
    "htc": "HTC",
    "fcos": "FCOS",
}
_BACKBONES = {"hrnetv2p": "HRNetV2p", "hrnet": "HRNet without HRFPN"}
_TRAINING = "tests/compat/test_training_tools.py::test_"
_INFERENCE = "tests/compat/test_inference_tools.py::test_"
_MODELS = "tests/compat/test_meta_architectures.py::test_"

TABLES = (
    Table(
        "The six families in Detectron2's tools",
        "Each cell is a W18 detector of this package in a tool of Detectron2: trained for a few "
        "iterations, evaluated, resumed or run as that tool does it. `plain_train_net.py`, "
        "`lazyconfig_train_net.py`, `benchmark.py`, `analyze_model.py` and `export_model.py` are "
        "not in Detectron2's package: the tests repeat their steps.",
        _FAMILIES,
        (
            Row("`DefaultTrainer` (`train_net.py`)", f"{_TRAINING}default_trainer"),
            Row("`plain_train_net.py`", f"{_TRAINING}plain_train_net"),
            Row("`lazyconfig_train_net.py`", f"{_TRAINING}lazyconfig_train_net"),
            Row("`benchmark.py`", f"{_TRAINING}benchmark"),
            Row("`DefaultPredictor`", f"{_INFERENCE}default_predictor"),
            Row("`DetectionCheckpointer`", f"{_INFERENCE}checkpointer"),
            Row("test-time augmentation", f"{_INFERENCE}time_augmentation"),
            Row("`Visualizer`", f"{_INFERENCE}visualizer"),
            Row("`analyze_model.py`", f"{_INFERENCE}analyze_model"),
            Row("`TracingAdapter` (`export_model.py`)", f"{_INFERENCE}tracing_adapter"),
            Row("`model_zoo`, YAML and LazyConfig", f"{_INFERENCE}model_zoo"),
            Row("Detectron2's ResNet-FPN as backbone", f"{_MODELS}resnet_fpn"),
        ),
    ),
    Table(
        "HRNet in Detectron2's meta-architectures and projects",
        "Each cell trains and predicts. The second column is the backbone alone: below "
        "Detectron2's FPN, or in DeepLab's models read directly. DensePose is not in Detectron2's "
        "package: its row has heads of the same kind, a decoder over all levels and a map for "
        "each box.",
        _BACKBONES,
        (
            Row("RetinaNet", f"{_MODELS}retinanet"),
            Row("Faster R-CNN", f"{_MODELS}faster_rcnn"),
            Row("Mask R-CNN", f"{_MODELS}mask_rcnn"),
            Row("Cascade Mask R-CNN", f"{_MODELS}cascade_rcnn"),
            Row("Keypoint R-CNN", f"{_MODELS}keypoint_rcnn"),
            Row("Semantic FPN", f"{_MODELS}semantic_fpn"),
            Row("Panoptic FPN", f"{_MODELS}panoptic_fpn"),
            Row("PointRend", f"{_MODELS}point_rend"),
            Row("DeepLabV3+", f"{_MODELS}deeplab_v3_plus"),
            Row("Panoptic-DeepLab", f"{_MODELS}panoptic_deeplab"),
            Row("heads like DensePose's", f"{_MODELS}dense_pose"),
        ),
    ),
)
