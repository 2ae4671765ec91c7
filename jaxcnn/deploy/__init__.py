"""What a trained network is used for: exports, an index of vectors with searches in it, and tracking."""

from jaxcnn.deploy.embed import Embedder, embed_files, embedder, images_in
from jaxcnn.deploy.exporting import Exported, export
from jaxcnn.deploy.index import Index, enrol, load_index, save_index
from jaxcnn.deploy.integers import quantised
from jaxcnn.deploy.program import Program, of_model, of_run
from jaxcnn.deploy.searching import Match, Verified, identify, near_duplicates, search, verify

__all__ = [
    "Embedder", "Exported", "Index", "Match", "Program", "Verified", "embed_files", "embedder", "enrol", "export",
    "identify", "images_in", "load_index", "near_duplicates", "of_model", "of_run", "quantised", "save_index",
    "search", "verify",
]  # fmt: skip
