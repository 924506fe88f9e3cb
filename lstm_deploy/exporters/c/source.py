"""`model.h` and `model.c` around the translated graph: state, step, sequence, rollout, and what a reader must know."""

import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from lstm_deploy.contract import (
    C_BYTES,
    CONTRACT_KEY,
    STEPS,
    CInterface,
    Classify,
    CTensor,
    Forecast,
    LanguageModel,
    Signature,
    comment_safe,
    state_field,
)
from lstm_deploy.errors import InputError
from lstm_deploy.exporters.c.literals import literal
from lstm_deploy.exporters.c.nodes import Temporary, Translator
from lstm_deploy.exporters.c.rollout import rollout_of
from lstm_deploy.exporters.c.sizes import Size
from lstm_deploy.exporters.c.weights import MAGIC, MAPPED_ABOVE

LARGEST_ON_STACK = 500_000
"""Bytes: threads have half a megabyte on some systems."""
HELPERS = {
    "count_of": (
        "/* Steps of a row: 1 at least, and no more than there are. */\n"
        "static size_t count_of(int64_t length, size_t steps)\n{\n"
        "  return length < 1 ? 1 : (uint64_t)length > steps ? steps : (size_t)length;\n}\n"
    ),
    "clipped": (
        "static float clipped(float x, float least, float most)\n{\n"
        "  x = x < least ? least : x;\n  return x > most ? most : x;\n}\n"
    ),
    "place_of": (
        "/* Places count from the end below 0, and never lie outside: an unknown token reads the last row. */\n"
        "static size_t place_of(int64_t place, size_t length)\n{\n"
        "  const size_t found = place < 0 ? (size_t)(place + (int64_t)length) : (size_t)place;\n"
        "  return found < length ? found : length - 1;\n}\n"
    ),
}


class Writer(CInterface):
    """Writes the two files of one model."""

    def __init__(self, name: str, signature: Signature, precision: str) -> None:
        super().__init__(name, signature, precision)
        self.workspace = Size.of()

    def check_stack(self, size: int) -> None:
        """Raise `InputError` where a call would need more on the stack than threads have."""
        if size > LARGEST_ON_STACK:
            raise InputError(
                f"A call of this model needs {size / 1e6:.1f} MB for what it computes on the way, too much for the "
                "stack of a C program; leave out --format c."
            )

    def header(self, weights_file: str, weights_bytes: int) -> str:
        name, upper = self.name, self.name.upper()
        members = "".join(
            f"  {each.c_type} {state_field(each)}[{each.size}]; /* {self._shape(each)}: "
            f"{comment_safe(each.spec.name)}, then {comment_safe(after.spec.name)} */\n"
            for each, after in zip(self.states_in, self.states_out, strict=True)
        )
        sizes = "".join(
            f"#define {upper}_{each.name.upper()}_SIZE {each.size} /* numbers of {each.name}"
            f"{' in one step' if each.has_time else ''} */\n"
            for each in (*self.inputs, *self.outputs)
        )
        if not self.mode.one_step:
            text = str(self.workspace).replace(STEPS, f"(size_t)({STEPS})")
            sizes += f"#define {self.workspace_macro} {text} /* bytes */\n"
        functions = "\n".join(f"{_wrapped(what)}\n{head};\n" for what, head in self.prototypes().values())
        if self.mapped:
            sizes += f"#define {upper}_WEIGHTS_BYTES {weights_bytes} /* of {weights_file}, where the weights lie */\n"
        if isinstance(self.signature.task, Forecast):
            window = self.signature.task.window
            sizes += f"#define {upper}_WINDOW {window} /* rows of an example in training */\n"
        return (
            f"{self._about()}\n#ifndef {upper}_H\n#define {upper}_H\n\n#include <stddef.h>\n#include <stdint.h>\n\n"
            f'#ifdef __cplusplus\nextern "C" {{\n#endif\n\n{sizes}\n'
            + _wrapped(
                "What a sequence carries from step to step: plain numbers, to be copied, saved and put back as it is. "
                "One for each stream; functions on different ones may run at the same time."
            )
            + f"\ntypedef struct {{\n{members}}} {name}_state;\n\n{functions}\n"
            f"#ifdef __cplusplus\n}}\n#endif\n\n#endif\n"
        )

    def source(self, header_name: str, translator: Translator, kernels: str, weights_path: Path) -> str:
        """The text of `model.c`; weights that are too large for it go to `weights_path`."""
        self.mapped = translator.weights.nbytes > MAPPED_ABOVE
        parts = [self._contract()]
        if self.mapped:
            parts.append("#if !defined(_POSIX_C_SOURCE)\n#define _POSIX_C_SOURCE 200809L /* for mmap */\n#endif\n")
        parts.append(
            f'#include "{header_name}"\n\n#include <math.h>\n#include <string.h>\n\n'
            "#if defined(__GNUC__)\n#define ALIGNED __attribute__((aligned(64)))\n#else\n#define ALIGNED\n#endif\n"
        )
        digest = ""
        if self.mapped:
            text, digest = translator.weights.as_file(weights_path)
        else:
            text = translator.weights.as_text()
        parts += [HELPERS[name] for name in sorted(translator.helpers)]
        parts += [kernels, text, self._call(translator), self._functions()]
        if self.mapped:
            parts.append(self._mapping(digest, weights_path.stat().st_size))
        return "\n".join(parts)

    def _call(self, translator: Translator) -> str:
        """The graph as a function of its inputs and outputs, state included."""
        given = [f"const {each.c_type} *{each.name}" for each in (*self.inputs, *self.states_in)]
        given += [f"{each.c_type} *{each.name}" for each in (*self.outputs, *self.states_out)]
        if self.mode.dynamic:
            given = [f"size_t {STEPS}", *given]
        lines, self.workspace = _memory(translator.temporaries, on_stack=self.mode.one_step)
        if self.mode.one_step:
            self.check_stack(self.workspace.at(1))
        else:
            given.append("char *workspace")
        unused = [each.name for each in (*self.inputs, *self.states_in) if not _used(each.name, translator.lines)]
        body = "".join(f"  {line}\n" for line in (*lines, *translator.lines, *(f"(void){name};" for name in unused)))
        return f"static void call({self.weights_parameter}{', '.join(given)})\n{{\n{body}}}\n"

    def _functions(self) -> str:
        name, w = self.name, self.weights_argument
        heads = {function: head for function, (_, head) in self.prototypes().items()}
        parts = [self._init(heads["init"])]
        arguments = ", ".join(each.name for each in (*self.inputs, *self.outputs))
        given = [each.name for each in self.inputs] + [f"state->{state_field(each)}" for each in self.states_in]
        given += [each.name for each in self.outputs] + [f"next.{state_field(each)}" for each in self.states_in]
        if self.mode.dynamic:
            given = [STEPS, *given]
        if not self.mode.one_step:
            given.append("(char *)workspace")
        head = heads["step" if self.mode.one_step else "sequence"]
        parts.append(f"{head}\n{{\n  {name}_state next;\n  call({w}{', '.join(given)});\n  *state = next;\n}}\n")
        if self.mode.one_step:
            parts.append(self._steps(heads["sequence"]))
        elif self.has_step:
            self.check_stack(self.workspace.at(1))
            parts.append(
                f"{heads['step']}\n{{\n  double workspace[({self.workspace_macro.replace(STEPS, '1')} + 7) / 8];\n"
                f"  {name}_sequence({w}state, 1, {arguments}, workspace);\n}}\n"
            )
        if self.has_rollout:
            parts.append(rollout_of(self, self.workspace, self.check_stack))
        return "\n".join(parts)

    def _init(self, head: str) -> str:
        initial = self.signature.initial_state(1)
        lines = ["  memset(state, 0, sizeof *state);\n"]
        for each in self.states_in:
            start = initial[each.spec.name].reshape(-1)
            if start.any():
                numbers = ", ".join(literal(number) for number in start)
                member = state_field(each)
                lines.append(
                    f"  {{\n    static const float learned[{start.size}] = {{{numbers}}};\n"
                    f"    memcpy(state->{member}, learned, sizeof learned);\n  }}\n"
                )
        return f"{head}\n{{\n{''.join(lines)}}}\n"

    def _steps(self, head: str) -> str:
        """A sequence as so many steps."""
        before: list[str] = []
        after: list[str] = []
        arguments, buffers = [], []
        for each in (*self.inputs, *self.outputs):
            is_output = each in self.outputs
            if not each.has_time:
                arguments.append(each.name)
            elif each.outer == 1:
                arguments.append(f"{each.name} + t * {each.inner}")
            else:  # time is not the first axis: one step is gathered
                buffers.append(f"  {each.c_type} now_{each.name}[{each.size}];\n")
                place = f"{each.name}[(k * {STEPS} + t) * {each.inner} + j]"
                local = f"now_{each.name}[k * {each.inner} + j]"
                copied = f"{place} = {local}" if is_output else f"{local} = {place}"
                loop = f"    for (k = 0; k < {each.outer}; k++) for (j = 0; j < {each.inner}; j++) {copied};\n"
                (after if is_output else before).append(loop)
                arguments.append(f"now_{each.name}")
        indices = "t, k, j" if buffers else "t"
        return (
            f"{head}\n{{\n{''.join(buffers)}  size_t {indices};\n  for (t = 0; t < {STEPS}; t++) {{\n{''.join(before)}"
            f"    {self.name}_step({self.weights_argument}state, {', '.join(arguments)});\n{''.join(after)}  }}\n}}\n"
        )

    def _mapping(self, digest: str, size: int) -> str:
        name = self.name
        start = MAGIC.decode() + digest
        return (
            f"int {name}_fits(const void *weights, size_t bytes)\n{{\n"
            f'  return bytes == {size} && memcmp(weights, "{start}", {len(start)}) == 0;\n}}\n\n'
            "#if defined(__unix__) || defined(__APPLE__)\n"
            "#include <fcntl.h>\n#include <sys/mman.h>\n#include <sys/stat.h>\n#include <unistd.h>\n\n"
            f"const void *{name}_map(const char *path)\n{{\n"
            "  struct stat found;\n  void *weights = MAP_FAILED;\n  const int file = open(path, O_RDONLY);\n"
            "  if (file < 0) return NULL;\n"
            f"  if (fstat(file, &found) == 0 && found.st_size == {size})\n"
            f"    weights = mmap(NULL, {size}, PROT_READ, MAP_PRIVATE, file, 0);\n"
            "  close(file);\n  if (weights == MAP_FAILED) return NULL;\n"
            f"  if ({name}_fits(weights, {size})) return weights;\n"
            f"  munmap(weights, {size});\n  return NULL;\n}}\n#endif\n"
        )

    def _contract(self) -> str:
        """The contract as a comment: `/` is written so that none of it can end that."""
        text = self.signature.to_json().replace("/", "\\/")
        return f"/* {CONTRACT_KEY}\n{text}\n*/\n/* precision {self.precision}, functions {self.name}_* */\n"

    def _about(self) -> str:
        """What the header says of the model."""
        signature, task = self.signature, self.signature.task
        lines = [str(each.spec) for each in (*self.inputs, *self.outputs)]
        if isinstance(task, Forecast):
            lines.append(
                f"takes {', '.join(task.features)} and predicts the next {', '.join(task.targets)}, in raw units"
            )
        elif isinstance(task, LanguageModel):
            lines.append("takes tokens, places in the vocabulary, and gives a logit for each that may be next")
        elif isinstance(task, Classify):
            lines.append(f"gives a logit for each of {', '.join(task.labels)}")
        lines.append(
            "all for one row of the batch; nothing is checked: NaN stays in the state for good, and a token that"
        )
        lines.append("is not in the vocabulary is taken for another one or for none")
        began = "went on from the end of the one before" if signature.state_policy == "carry" else "began anew"
        lines.append(f"in training each sequence {began}")
        if signature.streaming != "exact":
            lines.append(f"chunks with carried state are NOT the whole sequence: {signature.streaming_reason}")
        text = "\n".join(f" *   {comment_safe(line)}" for line in lines)
        return (
            f"/* {self.name}: an LSTM network in {self.precision} as C99, by lstm-deploy "
            f"{version('lstm-deploy')}; it needs libm only.\n"
            " *\n"
            f"{text}\n */"
        )

    def _shape(self, tensor: CTensor) -> str:
        axis = self.signature.batch_axis_of_state
        return f"[layers * directions, size] = {[dim for at, dim in enumerate(tensor.spec.shape) if at != axis]}"


def _memory(temporaries: Sequence[Temporary], *, on_stack: bool) -> tuple[list[str], Size]:
    """Declarations of all temporaries, on the stack or in a workspace, and how many bytes they take."""
    lines, place = [], Size.of()
    for each in temporaries:
        if on_stack:
            lines.append(f"{each.c_type} {each.name}[{max(1, each.size.number or 0)}];")
        else:
            lines.append(f"{each.c_type} *{each.name} = ({each.c_type} *)(void *)(workspace + {place});")
        # Every array takes a multiple of 8 bytes, whatever the number of steps.
        place = place + Size.of(*(-(-factor * C_BYTES[each.c_type] // 8) * 8 for factor in each.size.coefficients))
    return [*lines, *([] if on_stack else ["(void)workspace;"])], place


def _used(name: str, lines: Sequence[str]) -> bool:
    return any(re.search(rf"\b{name}\b", line) for line in lines)


def _wrapped(text: str) -> str:
    """A comment of lines that are not too long."""
    lines, line = [], "/*"
    for word in comment_safe(text).split():
        if len(line) + len(word) > 114:
            lines.append(line)
            line = "  "
        line += f" {word}"
    return "\n".join([*lines, f"{line} */"])
