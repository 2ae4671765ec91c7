"""All formats by name."""

from jaxcnn.deploy import exporters, page, torch
from jaxcnn.deploy.exporters import Exporter

EXPORTERS: dict[str, Exporter] = {
    **exporters.EXPORTERS, "torch": torch.to_torch, "page": page.to_page, "html": page.to_html,
}  # fmt: skip
FIXED = exporters.FIXED  # formats whose batch has one size
PAGES = ("page", "html")  # formats that need onnxruntime-web
ENDINGS = {
    "stablehlo": ".stablehlo", "onnx": ".onnx", "openvino": ".xml", "litert": ".tflite", "html": ".html",
    "torch": ".py",
}  # fmt: skip
FOLDERS = ("savedmodel", "page")  # formats that are folders, whose usual names say their format
SIDES = {"openvino": (".bin",), "torch": (".safetensors",)}  # endings of further files of a program


def files_of(to: str, stem: str) -> tuple[str, ...]:
    """Return the names of what an exporter writes, the program first.

    Args:
        to: the format.
        stem: name of the program without its ending.

    """
    return (stem + ENDINGS.get(to, ""), *(stem + ending for ending in SIDES.get(to, ())))
