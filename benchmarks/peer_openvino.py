"""A peer of `fx.bench`: any ONNX file or OpenVINO IR in OpenVINO on the CPU. Arguments: the file, the precision (f32, bf16)."""

from __future__ import annotations

import os
import sys

import openvino
from fxpress_backends.bench_worker import inputs, serve


def main(path: str, precision: str) -> None:
    settings = {
        "INFERENCE_NUM_THREADS": os.environ["OMP_NUM_THREADS"],
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "LATENCY",
    }
    core = openvino.Core()
    model = core.read_model(path)
    arrays = inputs()
    model.reshape([list(array.shape) for array in arrays] if len(arrays) > 1 else list(arrays[0].shape))
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    feeds = dict(enumerate(arrays))
    serve(lambda: request.infer(feeds))


if __name__ == "__main__":
    main(*sys.argv[1:])
