"""Networks as files that run without segnas: ONNX, checked against torch before it is handed over."""

from segnas.export.onnx_file import export_onnx, missing_packages, stored_parameters
from segnas.export.parity import Parity

__all__ = ["Parity", "export_onnx", "missing_packages", "stored_parameters"]
