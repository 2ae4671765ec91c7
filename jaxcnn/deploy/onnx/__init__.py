"""ONNX files of programs: a map from the operations of a traced function to those of ONNX, and a smaller graph."""

from jaxcnn.deploy.onnx.convert import trace
from jaxcnn.deploy.onnx.graph import OPSET, Graph
from jaxcnn.deploy.onnx.integers import to_integers
from jaxcnn.deploy.onnx.model import EXACT, require, run, session, to_bytes
from jaxcnn.deploy.onnx.passes import simplify

__all__ = ["EXACT", "OPSET", "Graph", "require", "run", "session", "simplify", "to_bytes", "to_integers", "trace"]
