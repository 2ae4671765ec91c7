"""Data sources, functions that return `Splits(train, valid, test)`; only `tfrecord` data import TensorFlow."""

from jaxcnn.data.anything import Batches, as_data, dataset
from jaxcnn.data.core import Indexed, Resident, Splits
from jaxcnn.data.files import digits, npz
from jaxcnn.data.folder import folder
from jaxcnn.data.idx_files import idx, is_idx_folder
from jaxcnn.data.masks import masks
from jaxcnn.data.splitting import stratified
from jaxcnn.data.table import table
from jaxcnn.data.tfds_source import tfds

SOURCES = {"csv": table, "digits": digits, "folder": folder, "idx": idx, "npz": npz, "tfds": tfds}

__all__ = [
    "Batches", "Indexed", "Resident", "SOURCES", "Splits", "as_data", "dataset", "digits", "folder", "idx",
    "is_idx_folder", "masks", "npz", "stratified", "table", "tfds",
]  # fmt: skip
