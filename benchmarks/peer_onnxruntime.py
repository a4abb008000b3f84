"""A peer of `fx.bench`: any ONNX file in ONNX Runtime on the CPU. Arguments: the file."""

from __future__ import annotations

import os
import sys

import onnxruntime
from fxpress_backends.bench_worker import inputs, serve


def main(path: str) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ["OMP_NUM_THREADS"])
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    feeds = dict(zip(names, inputs(), strict=True))
    serve(lambda: session.run(None, feeds))


if __name__ == "__main__":
    main(sys.argv[1])
