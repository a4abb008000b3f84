"""``Add(Symbol('s0', integer=True), Integer(-2))`` ==> the same text, where no name and no number in it can do harm.

``torch.export`` writes symbolic sizes as ``sympy.srepr`` and reads them with ``sympy.sympify``, which evaluates them as Python.
"""

from __future__ import annotations

import ast
import re

_LONGEST, _WIDEST, _LARGEST_POWER = 10_000, 2**63, 9
"""Characters of an expression, an integer's magnitude and an exponent's; beyond these sympy can be kept busy for ever."""

_SYMBOL = re.compile(r"(s|u|zf|zuf)\d{1,6}")
_NUMBER = re.compile(r"-?\d{1,40}(\.\d{1,40})?(e[+-]?\d{1,3})?")
_ASSUMPTIONS = {"integer", "positive", "nonnegative", "negative", "nonpositive", "real", "finite", "nonzero", "commutative"}
_FUNCTIONS = {
    "Add", "Mul", "Max", "Min", "Abs", "Mod", "PythonMod", "FloorDiv", "CeilDiv", "CleanDiv", "IntTrueDiv", "FloatTrueDiv",
    "ModularIndexing", "Where", "CeilToInt", "FloorToInt", "RoundToInt", "TruncToInt", "TruncToFloat", "ToFloat", "Identity",
    "IsNonOverlappingAndDenseIndicator", "ceiling", "floor", "And", "Or", "Not", "Eq", "Ne", "Lt", "Le", "Gt", "Ge",
    "Equality", "Unequality", "StrictLessThan", "LessThan", "StrictGreaterThan", "GreaterThan",
}  # fmt: skip
_POWERS = {"Pow", "PowByNatural"}


def is_symbol(text: str) -> bool:
    """``s0``, ``u12``: a name that torch gives to a dynamic size."""
    return _SYMBOL.fullmatch(text) is not None


def expression(text: str) -> str:
    """`text`, written anew from its syntax tree.

    Raises:
        ValueError: it is no expression of the kind that torch.export writes.
    """
    try:
        tree = ast.parse(text, mode="eval").body if len(text) <= _LONGEST else None
        if tree is not None and _is_known(tree):
            return ast.unparse(tree)
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError("cannot be read") from error
    raise ValueError("is not of the kind that torch.export writes")


def _is_known(tree: ast.expr) -> bool:
    if isinstance(tree, ast.Name):
        return tree.id in ("true", "false")
    if not isinstance(tree, ast.Call) or not isinstance(tree.func, ast.Name):
        return isinstance(tree, ast.Constant) and isinstance(tree.value, bool)
    name, arguments = tree.func.id, tree.args
    named = {keyword.arg: keyword.value for keyword in tree.keywords}
    if name == "Symbol":
        assumptions = named.keys() <= _ASSUMPTIONS and all(isinstance(_literal(value), bool) for value in named.values())
        return assumptions and len(arguments) == 1 and _matches(_SYMBOL, arguments[0])
    if name == "Float":
        return (
            named.keys() <= {"precision"}
            and all(map(_is_integer, named.values()))
            and len(arguments) == 1
            and _matches(_NUMBER, arguments[0])
        )
    if named:
        return False
    if name in ("Integer", "Rational"):
        return len(arguments) == ("Integer", "Rational").index(name) + 1 and all(map(_is_integer, arguments))
    if name in _POWERS:
        return len(arguments) == 2 and _holds_symbol(arguments[0]) and all(map(_is_known, arguments)) and _is_small(arguments[1])
    return name in _FUNCTIONS and all(map(_is_known, arguments))


def _literal(tree: ast.expr) -> object:
    if isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.USub):
        value = _literal(tree.operand)
        return -value if isinstance(value, int) else None
    return tree.value if isinstance(tree, ast.Constant) else None


def _is_integer(tree: ast.expr) -> bool:
    value = _literal(tree)
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < _WIDEST


def _is_small(tree: ast.expr) -> bool:
    value = _literal(tree.args[0]) if isinstance(tree, ast.Call) and tree.args else None
    return isinstance(value, int) and abs(value) <= _LARGEST_POWER


def _holds_symbol(tree: ast.expr) -> bool:
    """Powers of numbers alone grow without bound; powers of sizes stay symbols."""
    return any(isinstance(node, ast.Name) and node.id == "Symbol" for node in ast.walk(tree))


def _matches(pattern: re.Pattern[str], tree: ast.expr) -> bool:
    value = _literal(tree)
    return isinstance(value, str) and pattern.fullmatch(value) is not None
