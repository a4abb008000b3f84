"""Every field of torch's schema that holds text ==> the rule that its text has to pass on the way in."""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Mapping

from .expression import expression, is_symbol
from .operators import is_operator
from .tree import keywords, tree

_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_PATH = re.compile(r"(?!__)[\w:/+-]+(\.(?!__)[\w:/+-]+)*", re.ASCII)
_FRAME = re.compile(r'File "([^"\n\r\\]+)", line (\d{1,9}), in (\w+)', re.ASCII)
_MODULES = re.compile(r"[\w.,;()\[\]@$' -]+", re.ASCII)
_VERIFIERS = {"", "ATEN", "TRAINING"}


def metadata(given: Mapping[str, object]) -> dict[str, str]:
    """What later floors read of a node's metadata: the user's file and line, and the module it stands in."""
    trace, modules = str(given.get("stack_trace", "")), str(given.get("nn_module_stack", ""))
    kept = {"stack_trace": "".join(f'  File "{file}", line {line}, in {name}\n' for file, line, name in _FRAME.findall(trace))}
    if _MODULES.fullmatch(modules) and all(part.count(",") >= 2 for part in modules.split(";")):
        kept["nn_module_stack"] = modules
    return kept


def _free(text: str) -> str:
    return text


def _name(text: str) -> str:
    """A name becomes a variable of the code that torch.fx generates and runs."""
    if _NAME.fullmatch(text) is None or keyword.iskeyword(text):
        raise ValueError("is no name of a value")
    return text


def _optional_name(text: str) -> str:
    return text and _name(text)


def _path(text: str) -> str:
    """A path becomes ``self.a.b`` in generated code."""
    if _PATH.fullmatch(text) is None:
        raise ValueError("is no path of a module or tensor")
    return text


def _optional_path(text: str) -> str:
    return text and _path(text)


def _target(text: str) -> str:
    if not is_operator(text):
        raise ValueError("is no operator that a graph of ATen may call")
    return text


def _symbol(text: str) -> str:
    if not is_symbol(text):
        raise ValueError("is no symbol of a dynamic size")
    return text


def _input_tree(text: str) -> str:
    written = tree(text)
    for name in keywords(written):
        _name(str(name))
    return written


def _device(text: str) -> str:
    if text != "cpu":
        raise ValueError("is no CPU; move the model there")
    return text


def _verifier(text: str) -> str:
    if text not in _VERIFIERS:
        raise ValueError("is no dialect of torch.export")
    return text


RULES: dict[str, Callable[[str], str]] = {
    **dict.fromkeys(("TensorArgument.name", "GraphArgument.name", "Node.name", "InputToConstantInputSpec.name"), _name),
    **dict.fromkeys(("SymIntArgument.as_name", "SymFloatArgument.as_name", "SymBoolArgument.as_name"), _name),
    **dict.fromkeys((f"Graph.{kind}_values key" for kind in ("tensor", "sym_int", "sym_bool", "sym_float", "custom_obj")), _name),
    **dict.fromkeys(("UserInputMutationSpec.user_input_name", "ModuleCallSignature.forward_arg_names"), _name),
    "NamedArgument.name": _optional_name,
    **dict.fromkeys(("InputToParameterSpec.parameter_name", "ParameterMutationSpec.parameter_name"), _path),
    **dict.fromkeys(("InputToBufferSpec.buffer_name", "BufferMutationSpec.buffer_name"), _path),
    **dict.fromkeys(("InputToTensorConstantSpec.tensor_constant_name", "PayloadConfig.config key"), _path),
    "ModuleCallEntry.fqn": _optional_path,
    **dict.fromkeys(("Node.target", "Argument.as_operator"), _target),
    "SymExpr.expr_str": expression,
    "ExportedProgram.range_constraints key": _symbol,
    "ModuleCallSignature.in_spec": _input_tree,
    "ModuleCallSignature.out_spec": tree,
    "Device.type": _device,
    "ExportedProgram.verifiers": _verifier,
    **dict.fromkeys(("Argument.as_string", "Argument.as_strings", "ConstantValue.as_string"), _free),
    **dict.fromkeys(("Argument.as_string_to_argument key", "Node.metadata key", "Node.metadata"), _free),
    **dict.fromkeys(("ExportedProgram.torch_version", "ExportedProgram.opset_version key", "PayloadMeta.path_name"), _free),
}
"""``Class.field`` of ``torch._export.serde.schema``, or ``Class.field key`` for the keys of a dictionary."""
