"""CUDA C++ ==> cubin, by NVIDIA's run-time compiler out of its Python package: neither a GPU nor a CUDA toolkit is needed."""

from __future__ import annotations

import ctypes
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fxpress_ir.errors import BackendError

_PACKAGE = "nvidia-cuda-nvrtc"
_LIBRARY = "libnvrtc.so.13"
_TYPES = """#pragma once
namespace cuda { namespace std {
using int8_t = signed char; using int16_t = short; using int32_t = int; using int64_t = long long;
using uint8_t = unsigned char; using uint16_t = unsigned short; using uint32_t = unsigned; using uint64_t = unsigned long long;
} }
"""
_TRAITS = """#pragma once
namespace cuda { namespace std {
template <class T, class U> struct is_same { static constexpr bool value = false; };
template <class T> struct is_same<T, T> { static constexpr bool value = true; };
template <class T, class U> inline constexpr bool is_same_v = is_same<T, U>::value;
template <class T> struct is_integral; template <class T> struct is_signed; template <class T> struct is_unsigned;
template <class T> struct is_floating_point; template <bool B, class T> struct enable_if;
template <bool B, class T, class F> struct conditional;
} }
"""
_HEADERS = {b"cuda/std/cstdint": _TYPES.encode(), b"cuda/std/type_traits": _TRAITS.encode()}
"""What TVM's preamble includes of NVIDIA's standard library, 10 MB that no kernel of ours needs."""
_OPTIONS = ("--std=c++17", "--fmad=false", "--device-int128", "-default-device")
"""Floats as on any CPU: products and sums rounded one by one, division exact, no value flushed to zero."""


def cubin(source: str, architecture: str) -> bytes:
    """Machine code of all kernels in `source` for GPUs of ``sm_90`` and the like; a function of its arguments and NVRTC's version.

    Raises:
        BackendError: NVRTC is not installed, does not know the architecture, or refuses the source.
    """
    library = _library()
    program = ctypes.c_void_p()
    names, texts = ((ctypes.c_char_p * len(_HEADERS))(*values) for values in (_HEADERS.keys(), _HEADERS.values()))
    _call(library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernels.cu", len(_HEADERS), texts, names), "", architecture)
    try:
        options = [option.encode() for option in (f"--gpu-architecture={architecture}", *_OPTIONS)]
        status = library.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
        _call(status, _text(library, program, "ProgramLog"), architecture)
        return _bytes(library, program, "CUBIN")
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


@cache
def _library() -> Any:
    spec = find_spec("nvidia")
    places = [Path(place) for place in (spec.submodule_search_locations or ())] if spec is not None else []
    found = next((path for place in places for path in sorted(place.glob(f"*/lib/{_LIBRARY}"))), None)
    if found is None:
        raise BackendError(f"no NVRTC ({_PACKAGE}) to compile CUDA with", where="tvm:cuda", way_on="pip install 'fxpress[cuda]'")
    return ctypes.CDLL(str(found))


def _bytes(library: Any, program: Any, what: str) -> bytes:
    size = ctypes.c_size_t()
    getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    getattr(library, f"nvrtcGet{what}")(program, buffer)
    return buffer.raw


def _text(library: Any, program: Any, what: str) -> str:
    return _bytes(library, program, what).decode(errors="replace").strip("\0\n ")


def _call(status: int, log: str, architecture: str) -> None:
    if status:
        first = next((line for line in log.splitlines() if "error" in line), log[:200]) or f"status {status}"
        raise BackendError(f"NVRTC refuses: {first}", where=architecture, way_on="NVRTC 13 takes sm_75 and later")
