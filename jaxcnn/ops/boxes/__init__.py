"""Boxes: areas, overlaps, codecs, non-maximum suppression with fixed sizes, and the conventions of other formats.

A box is yxyx, `(y0, x0, y1, x1)`. In a batch its numbers are shares of the image's height and width, 0..1; functions
here that state no unit take any, as long as all their boxes have the same one. A box that ends before it begins has no
area. Results are float32 or wider.
"""

from jaxcnn.ops.boxes.codecs import decode_deltas, decode_distances, encode_deltas, encode_distances
from jaxcnn.ops.boxes.formats import from_coco, from_voc, from_yolo, to_coco, to_voc, to_yolo
from jaxcnn.ops.boxes.overlap import Kind, area, clip, intersection, iou, paired_iou
from jaxcnn.ops.boxes.suppression import Selected, nms

__all__ = [
    "Kind", "Selected", "area", "clip", "decode_deltas", "decode_distances", "encode_deltas", "encode_distances",
    "from_coco", "from_voc", "from_yolo", "intersection", "iou", "nms", "paired_iou", "to_coco", "to_voc", "to_yolo",
]  # fmt: skip
