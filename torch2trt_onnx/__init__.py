from torch2trt_onnx.inputs import Input
