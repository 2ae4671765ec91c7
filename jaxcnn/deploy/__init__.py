"""What a trained network is used for: an index of vectors with searches in it, and tracking."""

from jaxcnn.deploy.embed import Embedder, embed_files, embedder, images_in
from jaxcnn.deploy.index import Index, enrol, load_index, save_index
from jaxcnn.deploy.searching import Match, Verified, identify, near_duplicates, search, verify

__all__ = [
    "Embedder", "Index", "Match", "Verified", "embed_files", "embedder", "enrol", "identify", "images_in", "load_index",
    "near_duplicates", "save_index", "search", "verify",
]  # fmt: skip
