"""Convert all models of a manifest: the command `torch2trt-onnx batch`, for a clone.

.venv/bin/python tools/convert_batch.py MANIFEST -o OUT [--help]
"""

from torch2trt_onnx.commands.batch import batch

batch()
