"""Trained models for other programs: torch.export and ONNX files, each compared with the model before it is kept."""

from advreg.export.files import onnx_file, torch_file

__all__ = ["onnx_file", "torch_file"]
