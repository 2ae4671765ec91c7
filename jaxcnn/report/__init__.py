"""Reports: a page, a model card and a comparison, each made from one dict of plain values; nothing is trained here."""

from jaxcnn.report.card import card
from jaxcnn.report.compare import compare, paired
from jaxcnn.report.compressed import compressed
from jaxcnn.report.dense import segmentation, segments
from jaxcnn.report.diagnosis import diagnose
from jaxcnn.report.exported import exported
from jaxcnn.report.found import detection, finds
from jaxcnn.report.general import classifies, general
from jaxcnn.report.measure import measure
from jaxcnn.report.page import page
from jaxcnn.report.record import Finished, Tested, columns, images, make, picture, predict, read_finished
from jaxcnn.report.slices import by_group, read_groups
from jaxcnn.report.sound import audio_uri, spectrogram_picture
from jaxcnn.report.study import study

__all__ = [
    "audio_uri", "by_group", "card", "classifies", "columns", "compare", "compressed", "detection", "diagnose",
    "exported", "finds", "Finished", "general", "images", "make", "measure", "page", "paired", "picture", "predict",
    "read_finished", "read_groups", "segmentation", "segments", "spectrogram_picture", "study", "Tested",
]  # fmt: skip
