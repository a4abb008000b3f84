"""float ONNX file ==> ONNX Runtime's own int8 files of it, dynamic and static, and a way to run them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch


def quantized(source: Path, calibration: Sequence[tuple[torch.Tensor]], folder: Path) -> Iterator[tuple[str, Path]]:
    """What its tool makes, each way that it has for inputs of any length.

    Args:
        source: a float model with one input.
        calibration: batches for the static way; its methods other than min-max take inputs of one length only.
        folder: where the files go.
    """
    import onnx
    import onnxruntime
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static
    from onnxruntime.quantization.calibrate import CalibrationDataReader
    from onnxruntime.quantization.shape_inference import quant_pre_process

    (name,) = (entry.name for entry in onnxruntime.InferenceSession(str(source), providers=["CPUExecutionProvider"]).get_inputs())

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._feeds = iter([{name: batch[0].numpy()} for batch in calibration])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._feeds, None)

    prepared = folder / "prepared.onnx"
    quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    model = onnx.load(str(prepared))
    weights = {entry.name for entry in model.graph.initializer}
    for entry in [entry for entry in model.graph.value_info if entry.name in weights]:
        model.graph.value_info.remove(entry)  # it transposes weights and would then meet their old shapes
    onnx.save(model, str(prepared))
    for per_channel in (False, True):
        path = folder / f"dynamic-{per_channel}.onnx"
        quantize_dynamic(str(prepared), str(path), weight_type=QuantType.QInt8, per_channel=per_channel)
        yield f"ONNX Runtime dynamic, weights per {'channel' if per_channel else 'tensor'}", path
    path = folder / "static.onnx"
    kinds = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    quantize_static(str(prepared), str(path), Reader(), quant_format=QuantFormat.QDQ, per_channel=True, **kinds)
    yield "ONNX Runtime static, weights per channel", path


def runner(path: Path) -> Callable[[torch.Tensor], list[torch.Tensor]]:
    """Runs a file with one input."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (name,) = (entry.name for entry in session.get_inputs())
    return lambda x: [torch.from_numpy(output) for output in session.run(None, {name: x.numpy()})]
