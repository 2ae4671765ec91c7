"""Small detection sets in each format, written to a folder: gray images with a bright rectangle per box."""

import json

import numpy as np
from PIL import Image

# yxyx in pixels, from 0, the end outside, and the name of the class
SHAPES = {"a": (40, 60), "b": (60, 40), "c": (50, 50), "d": (31, 64)}
OBJECTS = {
    "a": [((10, 5, 30, 25), "cat"), ((4, 40, 12, 58), "dog")],
    "b": [((20, 10, 50, 30), "dog")],
    "c": [],
    "d": [((1, 2, 29, 60), "cat")],
}


def picture(name):
    pixels = np.full((*SHAPES[name], 3), 20, np.uint8)
    for (y0, x0, y1, x1), _ in OBJECTS[name]:
        pixels[y0:y1, x0:x1] = 230
    return Image.fromarray(pixels)


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def xml(objects, size=None, difficult=()):
    """The text of an XML file; `objects` are ((y0, x0, y1, x1), name) with any values."""
    text = "<annotation>"
    if size is not None:
        text += f"<size><width>{size[1]}</width><height>{size[0]}</height><depth>3</depth></size>"
    for i, ((y0, x0, y1, x1), name) in enumerate(objects):
        flag = int(i in difficult)
        text += f"<object><name>{name}</name><difficult>{flag}</difficult><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin>"
        text += f"<xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
    return text + "</annotation>"


def ones(objects):
    """Boxes in VOC's pixels, which count from 1 and include the last."""
    return [((y0 + 1, x0 + 1, y1, x1), name) for (y0, x0, y1, x1), name in objects]


def make_voc(root, names=SHAPES):
    (root / "Annotations").mkdir(parents=True, exist_ok=True)
    for name in names:
        save(root / "JPEGImages" / f"{name}.png", picture(name))
        (root / "Annotations" / f"{name}.xml").write_text(xml(ones(OBJECTS[name]), SHAPES[name]))
    return root


def coco_value(names=SHAPES):
    """The value of a JSON file, with ids that do not count from 0."""
    images = [
        {"id": 7 * i + 3, "file_name": f"{n}.png", "height": SHAPES[n][0], "width": SHAPES[n][1]}
        for i, n in enumerate(names)
    ]
    ids, found = {"cat": 4, "dog": 90}, []
    for image in images:
        for (y0, x0, y1, x1), name in OBJECTS[image["file_name"][0]]:
            box = [x0, y0, x1 - x0, y1 - y0]
            polygon = [x0, y0, x1, y0, x1, y1, x0, y1]
            found.append({
                "id": len(found), "image_id": image["id"], "category_id": ids[name], "bbox": box, "iscrowd": 0,
                "area": box[2] * box[3], "segmentation": [polygon],
            })  # fmt: skip
    categories = [{"id": number, "name": name} for name, number in ids.items()]
    return {"images": images, "annotations": found, "categories": categories}


def make_coco(root, value=None, names=SHAPES):
    for name in names:
        save(root / "images" / f"{name}.png", picture(name))
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations/instances_all.json").write_text(json.dumps(coco_value(names) if value is None else value))
    return root


def make_yolo(root, names=SHAPES):
    (root / "labels").mkdir(parents=True, exist_ok=True)
    for name in names:
        save(root / "images" / f"{name}.png", picture(name))
        lines = []
        for (y0, x0, y1, x1), label in OBJECTS[name]:
            height, width = SHAPES[name]
            share = (x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height
            lines.append(" ".join([str(["cat", "dog"].index(label)), *(f"{n:.6f}" for n in share)]))
        if lines:
            (root / "labels" / f"{name}.txt").write_text("\n".join(lines) + "\n")
    (root / "classes.txt").write_text("cat\ndog\n")
    return root


MAKE = {"voc": make_voc, "coco": make_coco, "yolo": make_yolo}
