"""Exports of CVAT ("CVAT for images"), read by the library labelformat."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from .conversion import ImageSizes, LabeledImage, Labels, Problems
from .report import DatasetError, Report
from .text_files import is_there, read_xml, root_tag

__all__ = ["CvatData", "find_cvat"]

# Shapes that labelformat leaves out without a word.
SHAPES = ("polygon", "mask", "polyline", "points", "ellipse", "cuboid", "skeleton")


def find_cvat(path: Path) -> "CvatData | None":
    """The dataset of an ``annotations.xml`` of CVAT, or of the folder of one; None for others."""
    file = path / "annotations.xml" if path.is_dir() else path
    if file.suffix != ".xml" or not file.is_file():
        return None
    return CvatData(path, file) if root_tag(file) == "annotations" else None


class CvatData:
    """An export of CVAT; see :class:`conversion.Reader`."""

    format = "CVAT"
    lists_classes = True

    def __init__(self, path: Path, file: Path):
        """
        Args:
            path: what the user gave.
            file: the XML file; its images are beside it, or in a folder ``images`` there.
        """
        self.path = path
        self.file = file
        self.roots = [file, *(p for p in [file.parent / "images"] if p.is_dir())]

    def read(self, report: Report, classes: Sequence[str] | None) -> Labels:
        try:
            from labelformat.formats.cvat import CVATObjectDetectionInput
        except ImportError as error:
            raise DatasetError(
                f"{self.path} is an export of CVAT, which the library labelformat reads: pip "
                "install 'hrnet_d2[formats]', or export COCO 1.0 from CVAT"
            ) from error
        counts = Counter(element.tag for element in read_xml(self.file).iter())
        lost = [f"{counts[shape]} {shape}" for shape in SHAPES if counts[shape]]
        if lost:
            report.errors.append(
                f"it has shapes that are not boxes ({', '.join(lost)}), which would be lost: "
                "export COCO 1.0 from CVAT, which keeps them"
            )
        try:
            data = CVATObjectDetectionInput(self.file)
            names = [category.name for category in data.get_categories()]
            found = list(data.get_labels())
        except Exception as error:  # of pydantic, or labelformat's own
            raise DatasetError(
                f"{self.file} is not an export of CVAT: {' '.join(str(error).split())}"
            ) from error
        problems = Problems(self.file.parent)
        sizes = ImageSizes(problems)
        index = {name: i for i, name in enumerate(names)}
        images, other = [], []
        for label in found:
            image = label.image
            if os.path.isabs(image.filename) or ".." in Path(image.filename).parts:
                problems.add("file names lead out of the folder", image.filename)
                continue
            tries = [
                self.file.parent / "images" / image.filename,
                self.file.parent / image.filename,
            ]
            file = next((p for p in tries if is_there(p)), tries[0])
            size = sizes(file)
            if size is None:
                continue
            if size != (image.width, image.height):
                other.append(file)
            images.append(LabeledImage(file, *size))
            for item in label.objects:
                x1, y1, x2, y2 = item.box.xmin, item.box.ymin, item.box.xmax, item.box.ymax
                images[-1].add(index[item.category.name], (x1, y1, x2 - x1, y2 - y1), [])
        if other:
            report.errors.append(
                f"{len(other)} images have another size than in {self.file.name}: "
                f"{problems.listed(other)}"
            )
        problems.report(report.errors)
        if not images and not problems.found:
            report.errors.append("it has no images")
        return Labels(names, {"": images})
