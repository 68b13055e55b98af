"""Trained models as torch.export and ONNX files, compared with the model before they are kept, and VNN-LIB properties."""

from advreg.export.files import onnx_file, torch_file
from advreg.export.vnnlib import read_verdicts, vnnlib_files, vnnlib_property

__all__ = ["onnx_file", "read_verdicts", "torch_file", "vnnlib_files", "vnnlib_property"]
