"""The languages that a client can be written in: a language is added here, with its templates.

A bundle may come from anyone, so no text of it may become code: `literal` escapes all that it could contain.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from lstm_deploy.contract import C_TYPES


class Language(NamedTuple):
    """How clients in one language are written, built and run."""

    formats: tuple[str, ...]
    """Formats of the artifacts that the program runs: those of these that the bundle has, at least one."""
    templates: tuple[str, ...]
    """Files of `templates/`, some in the folder of another language that shares them."""
    needs: str
    """The packages and tools that building and running it needs."""
    run: str
    """Commands that build it and replay the golden trace, with {python} for a Python that has lstm-deploy."""
    literal: Callable[[Any], str]
    """Writes a text as a literal; in Python and JavaScript, other values too."""
    identifier: Callable[[str], str] = str
    """Turns a name that C allows into one that the language and its program allow."""
    types: Mapping[str, str] = {}
    """Types of numbers by dtype, for languages whose programs declare them."""
    package: str = ""
    """The package of the runtime, where it is imported."""
    sessions: Mapping[str, str] = {}
    """A further template for each format that the bundle has."""
    libraries: Mapping[str, str] = {}
    """The library that runs the artifact of each format, where people have to get one by themselves."""
    single_file: bool = False
    """Whether the model has to be one file, without weights beside it."""
    run_needs: str = ""
    """The format of an artifact that `run` needs, and that Python's PyTorch runs; empty where any will do."""


def python_literal(value: Any) -> str:
    """A text, a number, or a sequence of these in Python, as formatters write it."""
    if isinstance(value, list | tuple):
        inner = ", ".join(map(python_literal, value))
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    written = repr(value)
    return f'"{written[1:-1]}"' if written[0] == "'" and '"' not in written else written


def js_literal(value: Any) -> str:
    """A value in JavaScript; safe in HTML too."""
    return json.dumps(value).replace("<", "\\u003c")


def c_literal(text: str) -> str:
    """A text in C or C++, as UTF-8."""

    def escaped(byte: int) -> str:
        letter = chr(byte)
        if letter in '"\\?':  # three question marks can be a trigraph
            return f"\\{letter}"
        return letter if 32 <= byte < 127 else f"\\{byte:03o}"

    return '"' + "".join(map(escaped, text.encode("utf-8", "surrogatepass"))) + '"'


def go_literal(text: str) -> str:
    """A text in Go, as UTF-8: as in C, but for a question mark."""
    return c_literal(text).replace("\\?", "?")


def rust_literal(text: str) -> str:
    """A text in Rust; braces are escaped too, since format strings read them."""
    plain = " !#$%&()*+,-./:;<=>?@[]^_`|~"
    letters = [c if c in plain or (c.isalnum() and c.isascii()) else f"\\u{{{ord(c):x}}}" for c in text]
    return '"' + "".join(letters) + '"'


NAMES_IN_MAIN_C = frozenset(
    " ".join(
        (
            "exp fabs fail fclose fgets fmax fmin fopen fprintf fputs free fscanf isfinite isnan malloc memcpy memmove",
            "memset mbtowc printf putchar rand realloc setlocale srand stderr stdout strchr strcmp strlen strncmp",
            "strtof strtol time towlower iswalnum iswspace wctomb all_calls all_outputs outputs before found read",
            "argc argv allowed best call calls cell classify column count fail file got have i j kind known length",
            "letter line logits made most n_rows n_told name noise number numbers off pairs path piece replay resized",
            "row rows run saved seen state steps sum temperature text token tokens told trace turn weights workspace",
            "wrong",
        )
    ).split()
)
"""Names that the programs in C use themselves."""
RUST_KEYWORDS = frozenset(
    " ".join(
        (
            "abstract as async await become box crate dyn final fn impl in let loop macro match mod move mut override",
            "priv pub ref self super trait type unsafe unsized use where yield",
        )
    ).split()
)
"""Keywords of Rust that are not keywords of C or C++."""


def c_identifier(name: str) -> str:
    """A name that the programs in C do not use themselves."""
    return f"the_{name}" if name in NAMES_IN_MAIN_C else name


def go_identifier(name: str) -> str:
    """An exported name of Go, which begins with a capital."""
    return name[0].upper() + name[1:]


def rust_identifier(name: str) -> str:
    """A name in lower case that is no keyword of Rust."""
    name = name.lower()
    return f"{name}_" if name in RUST_KEYWORDS else name


LANGUAGES = {
    "python": Language(
        formats=("onnx",),
        templates=("python/client.py", "python/README.md"),
        needs="Python, numpy, onnxruntime",
        run="{python} client.py replay",
        literal=python_literal,
    ),
    "node": Language(
        formats=("onnx",),
        templates=("js/client.mjs", "js/client.d.mts", "node/main.mjs", "node/package.json", "node/README.md"),
        needs="Node 18 or later, onnxruntime-node from npm",
        run="npm install && node main.mjs replay",
        literal=js_literal,
        package="onnxruntime-node",
    ),
    "web": Language(
        formats=("onnx",),
        templates=("js/client.mjs", "js/client.d.mts", "web/index.html", "web/package.json", "web/README.md"),
        needs="a browser, onnxruntime-web from npm, any server of files",
        run="npm install && {python} -m http.server 8000",
        literal=js_literal,
        package="onnxruntime-web",
        single_file=True,
    ),
    "cpp": Language(
        formats=("torchscript", "onnx"),
        templates=("cpp/client.hpp", "cpp/client.cpp", "cpp/main.cpp", "cpp/CMakeLists.txt", "cpp/README.md"),
        needs="a C++20 compiler, CMake, LibTorch (an installed torch has it) or ONNX Runtime",
        run="cmake -B build "
        "-DCMAKE_PREFIX_PATH=\"$({python} -c 'import torch; print(torch.utils.cmake_prefix_path)')\" "
        "&& cmake --build build && build/client-torch replay",
        run_needs="torchscript",
        literal=c_literal,
        types={"float32": "float", "int64": "std::int64_t", "int32": "std::int32_t", "bool": "std::uint8_t"},
        sessions={"torchscript": "cpp/session_torch.cpp", "onnx": "cpp/session_onnx.cpp"},
        libraries={"torchscript": "LibTorch", "onnx": "ONNX Runtime"},
    ),
    "c": Language(
        formats=("c",),
        templates=("c/main.c", "c/Makefile", "c/README.md"),
        needs="a C compiler and make",
        run="make && ./client replay",
        literal=c_literal,
        identifier=c_identifier,
        types=C_TYPES,
    ),
    "go": Language(
        formats=("c",),
        templates=("go/client.go", "go/main.go", "go/go.mod", "go/README.md"),
        needs="Go 1.19 or later, a C compiler",
        run="go build -o client . && ./client replay",
        literal=go_literal,
        identifier=go_identifier,
        types={"float32": "float32", "int64": "int64", "int32": "int32", "int8": "int8", "bool": "uint8"},
    ),
    "rust": Language(
        formats=("c",),
        templates=("rust/client.rs", "rust/main.rs", "rust/build.rs", "rust/Cargo.toml", "rust/README.md"),
        needs="Rust 1.63 or later, a C compiler",
        run="cargo build --release && target/release/client replay",
        literal=rust_literal,
        identifier=rust_identifier,
        types={"float32": "f32", "int64": "i64", "int32": "i32", "int8": "i8", "bool": "u8"},
    ),
}
