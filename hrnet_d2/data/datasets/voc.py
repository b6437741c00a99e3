"""Datasets in Pascal VOC's format: an XML file of boxes for each image."""

import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .conversion import (
    IMAGE_SUFFIXES,
    ImageSizes,
    LabeledImage,
    Labels,
    Problems,
    find_files,
    find_images,
    split_name,
)
from .report import DatasetError, Report, some
from .text_files import is_there, read_lines, read_xml, root_tag

__all__ = ["VocData", "class_list", "find_voc"]

CLASS_LISTS = ("classes.txt", "predefined_classes.txt", "labelmap.txt")
XML = (".xml",)
IMAGE_FOLDERS = ("JPEGImages", "images", "Images", "")
# The first of these that a devkit has is the training set, and so on.
LISTS = {
    "train": ("train",),
    "val": ("val", "valid"),
    "test": ("test",),
    "": ("trainval", "default"),
}


@dataclass
class _Folder:
    """XML files of one split, and where their images are."""

    xml: Path
    images: Path
    listed: Path | None = None
    """A file with the names of those that belong to the split."""
    unlabeled: list[Path] = field(default_factory=list)

    def files(self) -> list[Path]:
        if self.listed is None:
            return find_files(self.xml, XML)
        rows = (line.split() for line in read_lines(self.listed))
        return [self.xml / f"{row[0]}.xml" for row in rows if row]


def find_voc(path: Path) -> "VocData | None":
    """The dataset in a folder: XML files beside the images, or in ``Annotations``, at the top or
    in one folder for each split; None if it has none."""
    if not path.is_dir():
        return None
    devkit = _devkit(path)
    if devkit:
        return VocData(path, devkit)
    splits: dict[str, _Folder] = {}
    for folder in sorted(p for p in path.iterdir() if p.is_dir()):
        found = _folder(folder) if split_name(folder.name) else None
        if found:
            splits[split_name(folder.name)] = found
    if not splits:  # Annotations/train, images/train
        for folder in sorted((path / "Annotations").glob("*/")):
            if split_name(folder.name) and _has_voc(folder):
                images = next((path / i / folder.name for i in IMAGE_FOLDERS), folder)
                splits[split_name(folder.name)] = _Folder(folder, images)
    if not splits and (found := _folder(path)):
        splits[""] = found
    return VocData(path, splits) if splits else None


def _folder(path: Path) -> _Folder | None:
    for name in ("Annotations", "annotations", "xml", ""):
        if _has_voc(path / name):
            images = [path / i for i in IMAGE_FOLDERS if (path / i).is_dir()]
            return _Folder(path / name, path / name if not name else images[0])
    return None


def _devkit(path: Path) -> dict[str, _Folder]:
    """Splits of the layout with lists in ImageSets/Main."""
    lists = path / "ImageSets" / "Main"
    whole = _folder(path) if lists.is_dir() else None
    if whole is None:
        return {}
    splits: dict[str, _Folder] = {}
    for split, names in LISTS.items():
        file = next((p for n in names if (p := lists / f"{n}.txt").is_file()), None)
        if file is not None and not (split == "" and splits):
            splits[split] = _Folder(whole.xml, whole.images, file)
    return splits


def _has_voc(folder: Path) -> bool:
    """Whether an XML file of a folder, the first that is found, is of this format."""
    files = (p for p in folder.iterdir() if p.suffix.lower() in XML) if folder.is_dir() else ()
    file = next((p for p in files if not p.name.startswith(".")), None)
    if file is None:
        return False
    try:
        return root_tag(file) == "annotation"
    except (OSError, DatasetError):
        return True  # to be reported


class VocData:
    """A dataset in Pascal VOC's format; see :class:`conversion.Reader`.

    Corners are taken as written, as nearly all programs write them. Only files of the official
    devkits (``<database>The VOC2007 Database``) count pixels from 1: there Detectron2's rule
    applies, which subtracts 1 from the upper left corner. Objects marked "difficult" are objects
    like the others, as in Detectron2.
    """

    format = "Pascal VOC"

    def __init__(self, path: Path, splits: dict[str, _Folder]):
        """
        Args:
            path: what the user gave.
            splits: where each split is, by its name.
        """
        self.path = path
        self.splits = splits
        self.roots = [path]
        self._class_list = _class_file(path)
        self.lists_classes = self._class_list is not None

    def read(self, report: Report, classes: Sequence[str] | None) -> Labels:
        problems = Problems(self.path)
        parsed = {
            name: list(self._parse_all(folder, problems)) for name, folder in self.splits.items()
        }
        used = {
            _text(item, "name")
            for files in parsed.values()
            for _, root in files
            for item in root.iter("object")
        } - {""}
        if self._class_list is not None:
            classes = _read_classes(self._class_list)
        names = sorted(used) if classes is None else list(classes)
        if used - set(names):
            source = self._class_list or "the training data"
            report.errors.append(
                f"classes that {source} does not have: {some(sorted(used - set(names)))}"
            )
        if not names:
            report.errors.append("no file has an object")
        index = {name: i for i, name in enumerate(names)}
        sizes = ImageSizes(problems)
        splits = {}
        for name, folder in self.splits.items():
            images = [
                image
                for file, root in parsed[name]
                if (image := _read(file, root, folder.images, index, sizes, problems)) is not None
            ]
            if not parsed[name]:
                report.errors.append(f"{folder.listed or folder.xml} has no annotations")
            if folder.listed is None:
                splits[name] = images + self._unlabeled(folder, images, sizes, report)
            else:
                splits[name] = images
        problems.report(report.errors)
        return Labels(names, splits)

    def _parse_all(self, folder: _Folder, problems: Problems) -> Iterable[tuple[Path, ET.Element]]:
        for file in folder.files():
            try:
                yield file, read_xml(file)
            except FileNotFoundError:
                problems.add("XML files are missing", str(file))
            except DatasetError as error:
                problems.add("XML files cannot be read", f"{error}")

    def _unlabeled(
        self, folder: _Folder, images: list[LabeledImage], sizes: ImageSizes, report: Report
    ) -> list[LabeledImage]:
        """Images without an XML file, as images without objects."""
        known = {image.file for image in images}
        files = [file for file in find_images(folder.images) if file not in known]
        if not files or not images:
            return []
        report.warnings.append(
            f"{len(files)} images have no XML file and count as images without objects: "
            f"{sizes.problems.listed(files)}"
        )
        return [LabeledImage(f, *size) for f in files if (size := sizes(f)) is not None]


def _read(
    file: Path,
    root: ET.Element,
    images: Path,
    classes: dict[str, int],
    sizes: ImageSizes,
    problems: Problems,
) -> LabeledImage | None:
    path = _image_file(file, _text(root, "filename"), images)
    if path is None:
        problems.add("XML files have no image", f"{file} ({_text(root, 'filename')} in {images})")
        return None
    size = sizes(path)
    if size is None:
        return None
    try:
        written = int(_text(root, "size/width") or 0), int(_text(root, "size/height") or 0)
    except ValueError:
        written = (0, 0)
    if all(written) and written != size:  # some programs write 0 x 0
        problems.add(
            "XML files have another size than their image",
            f"{file} ({written[0]} x {written[1]}, the image {size[0]} x {size[1]})",
        )
    image = LabeledImage(path, *size)
    first = 1.0 if _text(root, "source/database").startswith("The VOC") else 0.0
    for number, item in enumerate(root.iter("object"), 1):
        name = _text(item, "name")
        if name not in classes:
            if not name:
                problems.add("objects have no name", f"{file} object {number}")
            continue
        try:
            x1, y1, x2, y2 = (
                float(_text(item, f"bndbox/{k}")) for k in ("xmin", "ymin", "xmax", "ymax")
            )
            polygon = [float(v.text or "") for v in item.iterfind("polygon/*")]
        except ValueError:
            problems.add("objects have no box of four numbers", f"{file} object {number}")
            continue
        x1, y1 = x1 - first, y1 - first
        polygons = [polygon] if len(polygon) >= 6 and len(polygon) % 2 == 0 else []
        image.add(classes[name], (x1, y1, x2 - x1, y2 - y1), polygons)
    return image


def _image_file(file: Path, name: str, images: Path) -> Path | None:
    """The image of an XML file: of the name that it states, or of its own name."""
    if name and Path(name).name == name and is_there(images / name):
        return images / name
    stems = [images / file.stem, file.with_suffix("")]
    for stem in stems:
        for suffix in sorted(IMAGE_SUFFIXES):
            for written in (suffix, suffix.upper()):
                path = stem.parent / f"{stem.name}{written}"
                if path.is_file():
                    return path
    return None


def _text(element: ET.Element, path: str) -> str:
    return (element.findtext(path) or "").strip()


def class_list(folder: Path) -> list[str] | None:
    """The names of the classes in a folder's list of them; None if it has none.

    Raises:
        DatasetError: if the list is empty.
    """
    file = _class_file(folder)
    return None if file is None else _read_classes(file)


def _class_file(folder: Path) -> Path | None:
    return next((p for n in CLASS_LISTS if (p := folder / n).is_file()), None)


def _read_classes(file: Path) -> list[str]:
    """Names, one a line; of CVAT's ``labelmap.txt`` what is before the colon, but for the
    background."""
    lines = [line.strip() for line in read_lines(file)]
    if file.name == "labelmap.txt":
        lines = [line.partition(":")[0] for line in lines if not line.startswith("#")]
        lines = [line for line in lines if line != "background"]
    names = list(dict.fromkeys(line for line in lines if line))
    if not names:
        raise DatasetError(f"{file} has no class")
    return names
