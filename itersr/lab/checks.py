"""What the check of an exercise says: what came out and what was expected, where it fails; that it is right, where it holds."""

from __future__ import annotations

import ast
import linecache
from types import FrameType, TracebackType
from typing import Any

import torch

LONGEST = 120  # characters of a value that are shown


def explained(error: BaseException) -> str | None:
    """What the sides of a failed `assert` were, and what the exercise asks for; None where it has a message of its own."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or error.args:
        return None
    try:
        cell = ast.parse("".join(linecache.getlines(trace.tb_frame.f_code.co_filename)))
        return next(_said(node.test, trace.tb_frame) for node in ast.walk(cell)
                    if isinstance(node, ast.Assert) and node.lineno <= trace.tb_lineno <= (node.end_lineno or node.lineno))
    except Exception:  # whatever goes wrong while explaining, the learner sees the plain AssertionError
        return None


def _said(test: ast.expr, frame: FrameType) -> str:
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
        return _said(next(part for part in test.values if not _value(part, frame)), frame)
    if isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.Eq):
        said = f"{ast.unparse(test.left)} gave {_shown(test.left, frame)}, expected {_shown(test.comparators[0], frame)}"
    else:
        parts = [test.left, *test.comparators] if isinstance(test, ast.Compare) else getattr(test, "args", [])
        shown = [f"{ast.unparse(part)} is {_shown(part, frame)}" for part in parts if not isinstance(part, ast.Constant)]
        said = f"{ast.unparse(test)} does not hold" + (": " + ", ".join(shown) if shown else "")
    called = (node.func.id for node in ast.walk(test) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name))
    own = {name: frame.f_globals.get(name) for name in called}
    asked = (f". {name}: {f.__doc__}" for name, f in own.items() if getattr(f, "__module__", "") == "__main__" and f.__doc__)
    return said + next(asked, "")


def _value(node: ast.expr, frame: FrameType) -> Any:
    return eval(compile(ast.Expression(node), "<check>", "eval"), frame.f_globals, frame.f_locals)


def _shown(node: ast.expr, frame: FrameType) -> str:
    value = _value(node, frame)
    if isinstance(value, torch.Tensor) and value.numel() > 8:
        return f"a tensor of shape {tuple(value.shape)}, {value.flatten()[:4].tolist()} …"
    text = repr(value)
    return text if len(text) <= LONGEST else text[:LONGEST] + " …"


def speak() -> None:
    """Let failed and passed checks of this notebook speak; without effect outside IPython."""
    try:
        from IPython import get_ipython
    except ImportError:
        return
    shell = get_ipython()  # type: ignore[no-untyped-call]
    if shell is not None:
        shell.set_custom_exc((AssertionError,), _failed)
        shell.events.register("post_run_cell", _Passed())


def _failed(shell: Any, kind: type, error: AssertionError, trace: TracebackType, tb_offset: int | None = None) -> None:
    said = explained(error)
    if said:
        error.args = (said,)
    shell.showtraceback((kind, error, trace), tb_offset=tb_offset)


class _Passed:
    """Says that a check passed: a cell of assertions after one that ends with a definition, or after another check of it."""

    def __init__(self) -> None:
        self.defined = False

    def __call__(self, result: Any) -> None:
        try:
            body = ast.parse(result.info.raw_cell).body
        except SyntaxError:  # a magic
            body = []
        if not _checks(body):
            self.defined = bool(body) and isinstance(body[-1], ast.FunctionDef | ast.ClassDef)
        elif self.defined and result.success:
            print("✓ right")


def _checks(body: list[ast.stmt]) -> bool:
    """Whether a cell begins with an assertion, or has nothing but assertions, assignments and loops over them."""
    def prepares(statements: list[ast.stmt]) -> bool:
        return all(isinstance(each, ast.Assign | ast.Assert) or isinstance(each, ast.For) and prepares(each.body)
                   for each in statements)

    asserts = any(isinstance(node, ast.Assert) for statement in body for node in ast.walk(statement))
    return asserts and (isinstance(body[0], ast.Assert) or prepares(body))
