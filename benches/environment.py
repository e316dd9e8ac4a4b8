"""A virtual environment under target/ for the scripts that measure Python libraries."""

import os
import subprocess
import sys
from pathlib import Path

from results import target_dir

REQUIREMENTS = ["numpy", "joblib"]


def enter() -> None:
    """Goes on in the environment's interpreter, which the first run makes."""
    folder = (target_dir() / "bench-python").resolve()
    python = folder / "bin" / "python"
    done = folder / "requirements.txt"
    if Path(sys.prefix).resolve() == folder:
        return
    if not done.exists() or done.read_text().split() != REQUIREMENTS:
        print(f"making {folder} …", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *REQUIREMENTS], check=True)
        done.write_text("\n".join(REQUIREMENTS))
    os.execv(python, [python, *sys.argv])
