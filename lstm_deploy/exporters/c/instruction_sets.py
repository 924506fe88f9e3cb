"""The instruction sets that kernels are written for: how each is detected, and its intrinsics.

The instruction set is chosen at run time where the compiler can ask the CPU, and at compile time elsewhere; none needs
a compiler flag, and none changes what floating-point arithmetic means.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from lstm_deploy.artifacts import UNITS
from lstm_deploy.exporters.c.templating import number


class InstructionSet(NamedTuple):
    """Vectors of float32."""

    name: str
    guard: str
    """Preprocessor condition under which it can be compiled."""
    supported: str
    """C expression that tells at run time whether the CPU has it."""
    target: str
    """Attribute of the functions that use it."""
    type: str
    """C type of a vector."""
    lanes: int
    """Numbers in a vector."""
    operations: Mapping[str, str]
    """Intrinsics by name, with placeholders for their operands. `min` and `max` return NaN if the first operand is."""

    def op(self, name: str, *operands: str) -> str:
        """An operation as a C expression."""
        return self.operations[name].format(*operands)

    def number(self, value: float) -> str:
        """A vector filled with one number."""
        return self.op("all", number(value))

    def vectors_of(self, gates: Sequence[str]) -> list[str]:
        """Names of the vectors that make up a row of a block of gates, in order."""
        return [f"{gate}{part}" for gate in gates for part in range(UNITS // self.lanes)]

    def sums_of(self, gates: Sequence[str]) -> int:
        """How many sums of each vector of such a row take turns, so that no addition waits for the one before."""
        return min(4, max(1, 8 // len(self.vectors_of(gates))))


class IntegerInstructionSet(NamedTuple):
    """Dot products of int8; `guard`, `supported` and `target` as in `InstructionSet`."""

    name: str
    guard: str
    supported: str
    target: str
    vectors: InstructionSet
    """Computes everything that is not an integer."""
    type: str
    """C type of a rounded input."""


def _x86(name: str, bits: int, features: Sequence[str], **operations: str) -> InstructionSet:
    common = {
        "load": "loadu_ps({0})",
        "store": "storeu_ps({0}, {1})",
        "all": "set1_ps({0})",
        "fma": "fmadd_ps({0}, {1}, {2})",
        "add": "add_ps({0}, {1})",
        "mul": "mul_ps({0}, {1})",
        "div": "div_ps({0}, {1})",
        "min": "min_ps({1}, {0})",
        "max": "max_ps({1}, {0})",
    }
    return InstructionSet(
        name=name,
        guard="defined(__x86_64__) && defined(__GNUC__)",
        supported=" && ".join(f'__builtin_cpu_supports("{feature}")' for feature in features),
        target=f'__attribute__((target("{",".join(features)}")))',
        type=f"__m{bits}",
        lanes=bits // 32,
        operations={name: f"_mm{bits}_{call}" for name, call in common.items()} | operations,
    )


AVX512 = _x86(
    "avx512",
    512,
    ["avx512f"],
    round="_mm512_roundscale_ps({0}, 8)",
    exp2="_mm512_scalef_ps(_mm512_set1_ps(1.0f), {0})",
    total="_mm512_reduce_add_ps({0})",
)
AVX2 = _x86(
    "avx2",
    256,
    ["avx2", "fma"],
    round="_mm256_round_ps({0}, 8)",
    exp2=(
        "_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32({0}), _mm256_set1_epi32(127)), 23))"
    ),
    total="total_avx2({0})",
)
NEON = InstructionSet(
    name="neon",
    guard="defined(__aarch64__) && defined(__GNUC__)",
    supported="1",
    target="",
    type="float32x4_t",
    lanes=4,
    operations={
        "load": "vld1q_f32({0})",
        "store": "vst1q_f32({0}, {1})",
        "all": "vdupq_n_f32({0})",
        "fma": "vfmaq_f32({2}, {0}, {1})",
        "add": "vaddq_f32({0}, {1})",
        "mul": "vmulq_f32({0}, {1})",
        "div": "vdivq_f32({0}, {1})",
        "min": "vminq_f32({0}, {1})",
        "max": "vmaxq_f32({0}, {1})",
        "round": "vrndnq_f32({0})",
        "exp2": "vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtq_s32_f32({0}), vdupq_n_s32(127)), 23))",
        "total": "vaddvq_f32({0})",
    },
)
VECTORS = (AVX512, AVX2, NEON)

INTEGERS = (
    IntegerInstructionSet(
        name="vnni",
        guard=AVX512.guard,
        supported='__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vnni")',
        target='__attribute__((target("avx512f,avx512vnni")))',
        vectors=AVX512,
        type="uint8_t",
    ),
    IntegerInstructionSet("avx2", AVX2.guard, AVX2.supported, AVX2.target, vectors=AVX2, type="int16_t"),
    IntegerInstructionSet(
        name="dotprod",
        guard="defined(DOTPROD)",
        supported="DOTPROD",
        target="DOTPROD_TARGET",
        vectors=NEON,
        type="int8_t",
    ),
    IntegerInstructionSet("neon", NEON.guard, NEON.supported, NEON.target, vectors=NEON, type="int8_t"),
)
