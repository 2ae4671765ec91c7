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
