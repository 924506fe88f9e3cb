"""Mutates valid files of weights of every kind, thousands of times, and reads them.

`python benchmarks/fuzz_readers.py [COUNT]`. A reader may refuse a file with `InputError`, or read it; anything else
is a defect, whose kind and seed are printed. The tests do the same with fewer files.
"""

import sys
import tempfile
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))

from fuzzing import KINDS, fuzz


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    warnings.simplefilter("ignore")
    failed = False
    for kind in KINDS:
        refused = 0
        for seed in range(count // 50):
            with tempfile.TemporaryDirectory() as folder:
                try:
                    refused += fuzz(Path(folder), kind, 50, seed)
                except Exception as error:
                    failed = True
                    print(f"{kind}, seed {seed}: {type(error).__name__}: {str(error)[:200]}")
        print(f"{kind}: {count} files, {refused} refused")
    sys.exit(failed)


if __name__ == "__main__":
    main()
