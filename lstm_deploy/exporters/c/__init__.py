"""C99: a model as one source and one header, translated from its ONNX graph; no runtime, and no dependency but libm."""
