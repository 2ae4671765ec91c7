"""Data sources, functions that return `Splits(train, valid, test)`; only `tfrecord` data import TensorFlow."""

from jaxcnn.data import drawing
from jaxcnn.data.anything import Batches, as_data, dataset
from jaxcnn.data.blurring import blur_boxes, blur_file
from jaxcnn.data.coco import coco
from jaxcnn.data.coco_masks import coco_masks
from jaxcnn.data.core import Indexed, Resident, Splits
from jaxcnn.data.corruptions import CORRUPTIONS, corrupt, corrupted
from jaxcnn.data.drawn_boxes import draw_boxes
from jaxcnn.data.episodes import Episodes
from jaxcnn.data.files import digits, npz
from jaxcnn.data.folder import folder
from jaxcnn.data.forecast import forecast, read_times
from jaxcnn.data.formats import classes_format, dense_format, table_format
from jaxcnn.data.idx_files import idx, is_idx_folder
from jaxcnn.data.letterbox import image_box, letterbox, unletterbox
from jaxcnn.data.masks import masks
from jaxcnn.data.nifti import centred, read_nifti, write_nifti
from jaxcnn.data.series import series
from jaxcnn.data.sound_file import read_sound, windows
from jaxcnn.data.sounds import sounds
from jaxcnn.data.splitting import stratified
from jaxcnn.data.table import table
from jaxcnn.data.texts import texts
from jaxcnn.data.tfds_dense import tfds_boxes, tfds_masks
from jaxcnn.data.tfds_source import tfds
from jaxcnn.data.videos import videos
from jaxcnn.data.voc import voc
from jaxcnn.data.volumes import read_volume, volumes
from jaxcnn.data.yolo import yolo

SOURCES = {
    "coco": coco, "coco_masks": coco_masks, "csv": table, "digits": digits, "folder": folder, "forecast": forecast,
    "idx": idx, "masks": masks, "npz": npz, "series": series, "sounds": sounds, "texts": texts, "tfds": tfds,
    "tfds_boxes": tfds_boxes, "tfds_masks": tfds_masks, "videos": videos, "voc": voc, "volumes": volumes, "yolo": yolo,
}  # fmt: skip

__all__ = [
    "as_data", "Batches", "blur_boxes", "blur_file", "centred", "classes_format", "coco", "coco_masks", "corrupt",
    "corrupted", "CORRUPTIONS", "dataset", "dense_format", "digits", "draw_boxes", "drawing", "Episodes", "folder",
    "forecast", "idx", "image_box", "Indexed", "is_idx_folder", "letterbox", "masks", "npz", "read_nifti", "read_sound",
    "read_times", "read_volume", "Resident", "series", "sounds", "SOURCES", "Splits", "stratified", "table",
    "table_format", "texts", "tfds", "tfds_boxes", "tfds_masks", "unletterbox", "videos", "voc", "volumes", "windows",
    "write_nifti", "yolo",
]  # fmt: skip
