"""Trained models for other programs: torch.export and ONNX, each checked against the model before it is called done."""

from advreg.export.files import onnx_file, torch_file

__all__ = ["onnx_file", "torch_file"]
