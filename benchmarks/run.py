"""All benchmarks in one go: a table, and a JSON file to compare with.

    python benchmarks/run.py                      # a quarter of an hour on two idle cores
    python benchmarks/run.py --quick              # small sizes, to see that all of them run

Every time is a ratio of two measured alternately in this run, so that the machine matters little.
`benchmarks/README.md` keeps the history.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent

# name of the script, arguments, arguments of the quick run
SCRIPTS: tuple[tuple[str, list[str], list[str]], ...] = (
    ("analysis_overhead", [], ["--members", "2", "--steps", "2", "--repeats", "1"]),
    ("network_forms", [], ["--quick"]),
    ("scaling", [], ["--tasks", "2", "--task-seconds", "0.2", "--repeats", "1"]),
    ("memory", [], ["--members", "4", "8"]),
    ("solver_accuracy", ["--sqg", "3"], ["--quick"]),
    ("training_speed", ["--threads", "1"], ["--threads", "1", "--steps", "2", "--size", "16"]),
    ("observation_operator", [], ["--count", "10000", "--repeats", "1"]),
    ("large_grid", [], ["--size", "61", "120", "--tile", "32", "--width", "8"]),
    ("streaming", ["--gigabytes", "20"], ["--gigabytes", "0.02", "--rows", "61"]),
)


def run(name: str, arguments: list[str]) -> dict[str, Any]:
    """Run one script in a process of its own, so that its memory is its own too."""
    started = time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(HERE / f"{name}.py"), *arguments],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    text = done.stdout.strip() if done.returncode == 0 else done.stderr.strip()[-2000:]
    return {
        "arguments": arguments,
        "exit_status": done.returncode,
        "seconds": time.perf_counter() - started,
        "output": text.splitlines(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes: no figures to keep")
    parser.add_argument("--only", nargs="*", help="names of scripts")
    parser.add_argument("--json", type=Path, default=HERE / "results" / "latest.json")
    options = parser.parse_args()
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "quick": options.quick,
    }
    for name, arguments, quick in SCRIPTS:
        if options.only and name not in options.only:
            continue
        found[name] = run(name, quick if options.quick else arguments)
        print(f"== {name} ({found[name]['seconds']:.0f} s)", *found[name]["output"], "", sep="\n")
        sys.stdout.flush()
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(f"written to {options.json}")
    failed = [name for name, one in found.items() if isinstance(one, dict) and one["exit_status"]]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
