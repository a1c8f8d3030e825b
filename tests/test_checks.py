"""What the checks of the exercises say."""

from __future__ import annotations

import linecache
from typing import Any

import pytest

from itersr.lab import checks

EXERCISE = '''
def double(x):
    """Twice x."""
    return x + 1

'''


def told(check: str) -> str | None:
    """What is said of a cell with the exercise, wrongly done, and this check."""
    name, source = "<cell>", EXERCISE + check
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    with pytest.raises(AssertionError) as caught:
        exec(compile(source, name, "exec"), {"__name__": "__main__"})
    caught.value.__traceback__ = caught.tb
    return checks.explained(caught.value)


@pytest.mark.parametrize(("check", "said"), [
    ("assert double(3) == 6", "double(3) gave 4, expected 6. double: Twice x."),
    ("x = 5\nassert double(1) == 2 and double(x) == 2 * x", "double(x) gave 6, expected 10. double: Twice x."),
    ("assert abs(double(3) - 6) < 1e-9", "abs(double(3) - 6) < 1e-09 does not hold: abs(double(3) - 6) is 2. double: Twice x."),
    ("import math\nassert math.isclose(double(3), 6.0)",
     "math.isclose(double(3), 6.0) does not hold: double(3) is 4. double: Twice x."),
    ("for x in (1, 2, 3):\n    assert double(x) == 2 * x", "double(x) gave 3, expected 4. double: Twice x."),
    ("import torch\nassert torch.equal(double(torch.zeros(3, 4)), torch.zeros(3, 4))",
     "torch.equal(double(torch.zeros(3, 4)), torch.zeros(3, 4)) does not hold: double(torch.zeros(3, 4)) is a tensor of shape "
     "(3, 4), [1.0, 1.0, 1.0, 1.0] …, torch.zeros(3, 4) is a tensor of shape (3, 4), [0.0, 0.0, 0.0, 0.0] …. double: Twice x."),
    ('assert double(3) == 6, "a message of its own"', None),
])
def test_a_failed_check_says_what_came_out_and_what_was_expected(check: str, said: str | None) -> None:
    assert told(check) == said


def test_a_notebook_says_it(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from IPython.core.interactiveshell import InteractiveShell

    shell: Any = InteractiveShell.instance()
    try:
        monkeypatch.setattr("IPython.get_ipython", lambda: shell)
        checks.speak()
        shell.run_cell(EXERCISE)
        assert not shell.run_cell("assert double(3) == 6").success
        assert "double(3) gave 4, expected 6" in capsys.readouterr().out
        assert shell.run_cell("assert double(1) == 2").success
        assert capsys.readouterr().out == "✓ right\n"
        assert shell.run_cell("x = double(1)\nfor y in (0, 2):\n    assert x == 2").success  # of the same definition
        assert capsys.readouterr().out == "✓ right\n"
        assert shell.run_cell("x = double(1)").success
        assert capsys.readouterr().out == ""
        assert shell.run_cell("assert x == 2").success  # no check of an exercise: no definition stands before it
        assert capsys.readouterr().out == ""
    finally:
        InteractiveShell.clear_instance()
