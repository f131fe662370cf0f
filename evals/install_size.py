"""Is the base install small, and free of torch?

make check-size
"""

from __future__ import annotations

import importlib.util
import sys
import sysconfig
from pathlib import Path

LIMIT_MB = 720
UNWANTED = ("torch", "transformers", "sentence_transformers", "open_clip", "colpali_engine")


def main() -> int:
    """Print the size of this environment's site-packages; 1 if it breaks the promise."""
    folder = Path(sysconfig.get_paths()["purelib"])
    used = sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
    found = [name for name in UNWANTED if importlib.util.find_spec(name) is not None]
    print(f"site-packages: {used:.0f} MB of {LIMIT_MB} MB; model libraries: {found or 'none'}")
    return int(used > LIMIT_MB or bool(found))


if __name__ == "__main__":
    sys.exit(main())
