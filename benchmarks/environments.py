"""An environment of its own for each peer, made once: benchmarks/.environments/NAME from benchmarks/peers/NAME.txt."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def python_of(name: str) -> Path:
    """The interpreter of an environment, which is built first where it is missing or its packages have changed."""
    if name == "thumbs":
        return Path(sys.executable)
    wanted = "".join(file.read_text(encoding="utf-8") for file in lists(name))
    folder = HERE / ".environments" / name
    python, built = folder / "bin" / "python", folder / "built.txt"
    if not built.exists() or built.read_text(encoding="utf-8") != wanted:
        print(f"{name}: building {folder}", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)  # noqa: S603
        for file in lists(name):
            alone = ["--no-deps"] if file.stem.endswith("_alone") else []
            pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *alone, "-r", file]
            subprocess.run(pip, check=True)  # noqa: S603
        built.write_text(wanted, encoding="utf-8")
    return python


def lists(name: str) -> list[Path]:
    """What pip installs, and then, of packages that ask for more than they need here, what it installs alone."""
    return [file for file in (HERE / "peers" / f"{name}{end}.txt" for end in ("", "_alone")) if file.exists()]
