"""Packs what a GPU machine without a registry lacks, into about 60 MB: `make gpu-pack`, which fills the folder `.gpu`.

Such a machine has Python with PyTorch for CUDA. onnxruntime-gpu (255 MB) holds kernels for six GPU architectures; those
of the others are cleared here, which compresses to nothing, and the driver reads only its own. What Python does not
load is left out. `.gpu/setup.sh`, sourced there, installs all of it beside PyTorch's own CUDA libraries.
"""

import argparse
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
NOT_LOADED = ("libonnxruntime.so.", "libonnxruntime_providers_tensorrt.so", "/transformers/", "/tools/", "/datasets/")
CUDA_LIBRARY = "onnxruntime/capi/libonnxruntime_providers_cuda.so"
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
FAT_BINARY = struct.pack("<I", 0xBA55ED50)
"""What begins the device code of a library: a header of 16 bytes, then for each architecture a header and the code."""
CODE = (1, 2)
"""Kinds of device code: PTX, and machine code."""
SETUP = """\
# Source this in the project's root on the GPU machine.
site=$(python3 -c 'import site; print(site.getsitepackages()[0])')
rm -rf "$site"/onnxruntime "$site"/onnxruntime-*
tar -xJf .gpu/onnxruntime.tar.xz -C "$site"
python3 -m pip install -q --no-index --no-deps --no-compile .gpu/*.whl
export OMP_NUM_THREADS=1 PYTHONPATH=$PWD
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default="3.12", help="of the GPU machine")
    parser.add_argument("--architecture", type=int, default=90, help="of the GPU: 90 is an H100 or H200")
    parser.add_argument(
        "--wheels", nargs="*", default=["msgspec", "rich", "lazy-loader", "pytest", "pluggy", "iniconfig"]
    )
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    download([f"{name}=={pinned[name]}" for name in given.wheels], given.python, given.folder)
    with tempfile.TemporaryDirectory() as scratch:
        download([f"onnxruntime-gpu=={pinned['onnxruntime-gpu']}"], given.python, Path(scratch))
        tree = Path(scratch, "tree")
        with zipfile.ZipFile(next(Path(scratch).glob("*.whl"))) as wheel:
            wheel.extractall(tree, [name for name in wheel.namelist() if not any(part in name for part in NOT_LOADED)])
        library = tree / CUDA_LIBRARY
        library.write_bytes(with_one_architecture(library.read_bytes(), given.architecture))
        packed = shutil.make_archive(str(given.folder / "onnxruntime"), "xztar", tree)
    (given.folder / "setup.sh").write_text(SETUP, encoding="utf-8")
    size = sum(file.stat().st_size for file in given.folder.iterdir())
    print(f"{packed} and what else is in {given.folder}: {size / 2**20:.0f} MiB")


def download(requirements: list[str], python: str, folder: Path) -> None:
    """Wheels for the GPU machine, without what they depend on."""
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    options = ["--quiet", "--no-deps", "--only-binary=:all:", "--implementation=cp", f"--python-version={python}"]
    subprocess.run(
        [sys.executable, "-m", "pip", "download", *options, *platforms, "-d", str(folder), *requirements], check=True
    )


def with_one_architecture(library: bytes, architecture: int) -> bytes:
    """The same bytes with zeros in place of the device code of all other architectures."""
    cleared = bytearray(library)
    for start, size, kind, found in device_code(library):
        if kind in CODE and found != architecture:
            cleared[start : start + size] = bytes(size)
    return bytes(cleared)


def device_code(library: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Where each piece of device code begins, its size, its kind and its architecture."""
    at = 0
    while (at := library.find(FAT_BINARY, at)) >= 0:
        version, header, size = struct.unpack_from("<HHQ", library, at + 4)
        if (version, header) != (1, 16) or at + header + size > len(library):
            at += len(FAT_BINARY)
            continue
        entry, end = at + header, at + header + size
        while entry < end:
            kind, _, length, padded = struct.unpack_from("<HHIQ", library, entry)
            if not length:
                raise SystemExit(f"The device code at byte {entry} has a layout that is not known.")
            yield entry + length, padded, kind, struct.unpack_from("<I", library, entry + 28)[0]
            entry += length + padded
        at = end


if __name__ == "__main__":
    main()
