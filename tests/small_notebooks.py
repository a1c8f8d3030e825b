"""Notebooks of a few cells, to prove the tools on; written as percent text, like the real ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import jupytext

from itersr.lab.reproduce import ROOT

PARAMETERS = '''# %% tags=["parameters"]
tier = "smoke"
seed = 0
device = "auto"
data = None
out = None
'''

START = '''from itersr.lab.reproduce import Run

run = Run.start("{number}", tier=tier, seed=seed, device=device, data=data, out=out)
'''

SCHEDULE = '''# %% [markdown]
# # How many tokens a step keeps ([next](../README.md))

# %% tags=["nbval-check-output"]
from itersr.schedule import tokens_to_keep

print([tokens_to_keep(t, 8, 64, "cosine") for t in range(9)])
'''

EXERCISE = '''# %% [markdown]
# ## Exercise: γ(r) = r³

# %% tags=["exercise"]
def gamma_cubic(r: float) -> float:
    raise NotImplementedError

# %% jupyter={"source_hidden": true} tags=["solution"]
def gamma_cubic(r: float) -> float:
    return r**3

# %% tags=["check"]
assert gamma_cubic(1) == 1
assert gamma_cubic(0.5) == 0.125
'''

RECORD = '''# %%
path = run.record(f"seed {run.seed}, {kept} kept", kept=kept)
'''


def text(number: str, *cells: str) -> str:
    return "\n".join([PARAMETERS, "# %%\n" + START.format(number=number), *cells])


def good(number: str = "00") -> str:
    kept = "# %%\nkept = tokens_to_keep(4, 8, 64)\n"
    return text(number, SCHEDULE, kept, EXERCISE, RECORD)


def project(root: Path, **notebooks: str) -> Path:
    """A folder with notebooks/ (name=text), and what the tools look at besides."""
    (root / "notebooks").mkdir(parents=True)
    for name, content in notebooks.items():
        (root / "notebooks" / f"{name.removeprefix('nb')}.py").write_text(content, encoding="utf-8")
    shutil.copyfile(ROOT / "requirements.lock", root / "requirements.lock")
    (root / "README.md").write_text("# A project\n", encoding="utf-8")
    return root


def course(root: Path, **notebooks: str) -> Path:
    """The same, with the .ipynb of each, not executed: what `reproduce` runs."""
    for source in (project(root, **notebooks) / "notebooks").glob("*.py"):
        jupytext.write(jupytext.read(source), source.with_suffix(".ipynb"))
    return root
