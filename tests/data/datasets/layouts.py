"""A small dataset, written as other programs write theirs."""

import json
from pathlib import Path

import cv2
import numpy as np

CLASSES = ["dog", "cat", "bird"]  # not sorted by name
WIDTH, HEIGHT = 64, 48


def samples(first: int, count: int) -> list[tuple[str, list[tuple[int, tuple, list]]]]:
    """Names of images, and class, box (x, y, width, height) and polygon of their objects."""
    result = []
    for i in range(first, first + count):
        objects = []
        for k in range(i % 3):  # every third image has no object
            x, y, w, h = 3 + 10 * k, 2 + i % 5, 17 + k, 21 - k
            polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
            objects.append(((i + k) % len(CLASSES), (x, y, w, h), polygon))
        result.append((f"{i:03d}.png", objects))
    return result


SPLITS = {"train": samples(1, 7), "val": samples(8, 4)}


def write_image(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.RandomState([seed, *path.name.encode()])
    assert cv2.imwrite(str(path), rng.randint(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8))


def coco(split: str, *, polygons: bool = True, placeholder: bool = False) -> dict:
    shift = 0 if placeholder else 1
    images, annotations = [], []
    for name, objects in SPLITS[split]:
        number = len(images) + 1
        images.append({"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT})
        for category, box, polygon in objects:
            annotation = {
                "id": len(annotations) + 1,
                "image_id": number,
                "category_id": category + 1,
                "bbox": list(box),
                "area": box[2] * box[3],
                "iscrowd": 0,
            }
            if polygons:
                annotation["segmentation"] = [polygon]
            annotations.append(annotation)
    categories = [{"id": i + 1, "name": n, "supercategory": "pets"} for i, n in enumerate(CLASSES)]
    if placeholder:
        categories.insert(0, {"id": shift, "name": "pets", "supercategory": "none"})
    return {"images": images, "annotations": annotations, "categories": categories}


def write_coco(root: Path) -> Path:
    """COCO's own layout: annotations/instances_train.json, train/."""
    (root / "annotations").mkdir(parents=True)
    for split in SPLITS:
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(coco(split)))
        for name, _ in SPLITS[split]:
            write_image(root / split / name)
    return root


def write_roboflow(root: Path) -> Path:
    """Roboflow's COCO: a file in each split, and a class that is the project's name."""
    for split, folder in (("train", "train"), ("val", "valid")):
        for name, _ in SPLITS[split]:
            write_image(root / folder / name)
        path = root / folder / "_annotations.coco.json"
        path.write_text(json.dumps(coco(split, placeholder=True)))
    return root


def yolo_rows(objects: list, *, polygons: bool) -> str:
    rows = []
    for category, (x, y, w, h), polygon in objects:
        if polygons:
            sides = (WIDTH, HEIGHT) * (len(polygon) // 2)
            values = [v / side for v, side in zip(polygon, sides, strict=True)]
        else:
            values = [(x + w / 2) / WIDTH, (y + h / 2) / HEIGHT, w / WIDTH, h / HEIGHT]
        rows.append(" ".join([str(category), *(f"{v:.6f}" for v in values)]))
    return "\n".join(rows) + "\n" * bool(rows)


def write_yolo(root: Path, *, polygons: bool = False) -> Path:
    """Roboflow's and Ultralytics' layout, with the former's paths that are wrong by a folder."""
    for split, folder in (("train", "train"), ("val", "valid")):
        for name, objects in SPLITS[split]:
            write_image(root / folder / "images" / name)
            labels = root / folder / "labels" / Path(name).with_suffix(".txt")
            labels.parent.mkdir(exist_ok=True)
            labels.write_text(yolo_rows(objects, polygons=polygons))
    (root / "data.yaml").write_text(
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n"
        f"nc: {len(CLASSES)}\nnames: {CLASSES}\n"
    )
    return root


def voc_xml(name: str, objects: list, database: str = "Unknown", first: int = 0) -> str:
    items = [
        f"<object><name>{CLASSES[category]}</name><difficult>0</difficult><bndbox>"
        f"<xmin>{x + first}</xmin><ymin>{y + first}</ymin><xmax>{x + w}</xmax>"
        f"<ymax>{y + h}</ymax></bndbox></object>"
        for category, (x, y, w, h), _ in objects
    ]
    return (
        f"<annotation><filename>{name}</filename><source><database>{database}</database></source>"
        f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
        f"{''.join(items)}</annotation>"
    )


def write_voc(root: Path) -> Path:
    """Roboflow's layout: XML files beside the images; with a list of the classes."""
    for split, folder in (("train", "train"), ("val", "valid")):
        for name, objects in SPLITS[split]:
            write_image(root / folder / name)
            (root / folder / name).with_suffix(".xml").write_text(voc_xml(name, objects))
    (root / "classes.txt").write_text("\n".join(CLASSES))
    return root


def write_devkit(root: Path) -> Path:
    """The layout of the official devkits, whose pixels count from 1."""
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (root / folder).mkdir(parents=True)
    for split, images in SPLITS.items():
        for name, objects in images:
            write_image(root / "JPEGImages" / name)
            text = voc_xml(name, objects, "The VOC2007 Database", first=1)
            (root / "Annotations" / name).with_suffix(".xml").write_text(text)
        stems = "".join(f"{Path(name).stem}\n" for name, _ in images)
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text(stems)
    (root / "ImageSets" / "Main" / "trainval.txt").write_text("999\n")  # not used
    return root


def write_cvat(root: Path, shape: str = "") -> Path:
    """CVAT for images, of the images of "train"."""
    text = "".join(f"<label><name>{name}</name></label>" for name in CLASSES)
    text = f"<annotations><meta><task><labels>{text}</labels></task></meta>"
    for i, (name, objects) in enumerate(SPLITS["train"]):
        write_image(root / "images" / name)
        text += f'<image id="{i}" name="{name}" width="{WIDTH}" height="{HEIGHT}">{shape}'
        for category, (x, y, w, h), _ in objects:
            text += f'<box label="{CLASSES[category]}" xtl="{x}" ytl="{y}" xbr="{x + w}" '
            text += f'ybr="{y + h}" occluded="0"></box>'
        text += "</image>"
    (root / "annotations.xml").write_text(text + "</annotations>")
    return root
