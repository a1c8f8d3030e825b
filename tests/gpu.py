"""All that a rented GPU should do, in one call: `make gpu MINUTES=10`, or `python -m tests.gpu --tier small --data photos`.

    tests       tests/test_cuda.py: the GPU computes what the CPU does, and trains
    inference   seconds, memory and share of the card's rate, by size and precision
    training    `itersr train all --minutes`, called again where it stopped before its time

Nothing is needed but what `itersr` itself imports, and pytest. OUT then holds eight files: the four networks, summary.md,
tests.txt, inference.json, and run.tar.gz with logs, curves, samples, configuration and card. A step that fails is told in the
summary and does not stop the next one. `--tier smoke --device cpu` rehearses it all where there is no GPU.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path

ATTEMPTS = 3  # of the training: after a NaN it continues from the last good checkpoint


def call(module: Sequence[str], log: Path, seconds: float, **environment: str) -> str:
    """Run `python -m module…`, all it says into `log`; gives how it ended, in a few words."""
    began = time.monotonic()
    with log.open("a", encoding="utf-8") as file:
        try:
            done = subprocess.run([sys.executable, "-m", *module], stdout=file, stderr=subprocess.STDOUT, timeout=seconds,
                                  env={**os.environ, "PYTHONUNBUFFERED": "1", **environment})
            how = "done" if done.returncode == 0 else f"failed with exit code {done.returncode}"
        except subprocess.TimeoutExpired:
            how = f"stopped after {seconds:.0f} s"
    return f"{how}, {time.monotonic() - began:.0f} s"


def last_lines(log: Path, count: int) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n").splitlines()
    return "\n".join(line for line in lines[-count:] if line.strip())


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tier", default="small", help="what is trained (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=10, help="of training (default: %(default)s)")
    parser.add_argument("--data", type=Path, help="a folder of photos (default: those of scikit-image)")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="where the eight files go (default: %(default)s)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a rehearsal (default: %(default)s)")
    args = parser.parse_args(arguments)
    out, run = args.out, args.out / "run"
    out.mkdir(parents=True, exist_ok=True)
    if any(path for path in out.iterdir() if path != run):
        print(f"gpu: {out} is not empty: name another folder, or empty this one", file=sys.stderr)
        return 2
    tests, console = out / "tests.txt", out / "console.txt"
    rehearsal = {"ITERSR_CUDA_TESTS": "cpu"} if args.device == "cpu" else {}
    told = {"tests": call(["pytest", "-rP", "-p", "no:cacheprovider", "tests/test_cuda.py"], tests, 300, **rehearsal)}
    small = ["--sides", "32", "--tier", "tiny"] if args.device == "cpu" else []
    told["inference"] = call(["tests.benchmarks.bench_gpu", "--device", args.device, "--seconds", "45", *small,
                              "--json", str(out / "inference.json")], console, 120)
    training = ["itersr", "train", "all", "--tier", args.tier, "--minutes", f"{args.minutes:g}", "--device", args.device,
                "--out", str(run), *(["--data", str(args.data)] if args.data else [])]
    for attempt in range(ATTEMPTS):
        told[f"training {attempt + 1}" if attempt else "training"] = how = call(training, console, 60 * args.minutes + 120)
        if how.startswith("done"):
            break
    weights = run / "weights"
    for network in sorted(weights.glob("*.safetensors")):
        shutil.copy(network, out)
    card = weights / "MODEL_CARD.md"
    summary = ["# What the GPU did", "", *(f"- {name}: {how}" for name, how in told.items()), "",
               "```", last_lines(tests, 1), "```", "", "```", last_lines(console, 60), "```", "",
               card.read_text(encoding="utf-8") if card.exists() else "No card was written."]
    (out / "summary.md").write_text("\n".join(summary) + "\n", encoding="utf-8")
    with tarfile.open(out / "run.tar.gz", "w:gz") as archive:
        for path in [console, *run.rglob("*")]:
            if path.is_file() and path.suffix not in (".safetensors", ".pt"):
                archive.add(path, path.relative_to(out))
    console.unlink()
    print((out / "summary.md").read_text(encoding="utf-8"))
    print("\n".join(f"{path.stat().st_size / 2**20:6.1f} MiB {path.name}" for path in sorted(out.iterdir()) if path.is_file()))
    return 0 if how.startswith("done") and told["tests"].startswith("done") else 1


if __name__ == "__main__":
    sys.exit(main())
