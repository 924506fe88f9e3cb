"""The same inner loops with weights of 8 bits: integer dot products, where the CPU has them.

Each row of a gate has a scale of its own; inputs and `h` are rounded at every step, to 127 levels of the largest among
them. Sums are exact in 32 bits, so all instruction sets round alike.

Bytes lie in groups of four inputs, for `ROW` sums each: what one instruction of VNNI or dotprod adds up. VNNI wants its
inputs from 0 to 255, so they are 128 more there, and the sums begin with what that adds too much (`starts`). AVX2 has
no such instruction that cannot overflow: it multiplies in 16 bits.
"""

from string import Template
from typing import NamedTuple

from lstm_deploy.artifacts import GATES, GROUP, ROW, UNITS
from lstm_deploy.exporters.c.kernels import PLAIN_GATES, VECTORS, Vectors, activate, gate_names, indented

AVX512, AVX2, NEON = VECTORS


class Integers(NamedTuple):
    """How an instruction set multiplies integers."""

    name: str
    guard: str
    chosen: str
    target: str
    """As in `kernels.Vectors`."""
    vectors: Vectors
    """What does the rest of the computation."""
    type: str
    """Of rounded inputs."""
    rounded: str
    """Statements that round `v` and write it to `q + k`."""
    dot: str
    """Statements that add the products of `groups` to `sum`."""


def _vnni_dot() -> str:
    lines = []
    for part in range(GATES):
        lines.append(f"  __m512i a{part} = _mm512_loadu_si512(start + {part * 16}), b{part} = _mm512_setzero_si512();")
    lines.append("  for (g = 0; g < groups - groups % 2; g += 2) {")
    lines.append("    memcpy(&first, q + 4 * g, 4);\n    memcpy(&second, q + 4 * g + 4, 4);")
    for name, value, offset in (("a", "first", 0), ("b", "second", 256)):
        for part in range(GATES):
            row = f"_mm512_loadu_si512(bytes + 256 * g + {offset + 64 * part})"
            lines.append(f"    {name}{part} = _mm512_dpbusd_epi32({name}{part}, _mm512_set1_epi32({value}), {row});")
    lines.append("  }")
    lines.append("  if (g < groups) {\n    memcpy(&first, q + 4 * g, 4);")
    for part in range(GATES):
        row = f"_mm512_loadu_si512(bytes + 256 * g + {64 * part})"
        lines.append(f"    a{part} = _mm512_dpbusd_epi32(a{part}, _mm512_set1_epi32(first), {row});")
    lines.append("  }")
    for part in range(GATES):
        at = f"{part * 16}"
        scaled = f"_mm512_mul_ps(_mm512_set1_ps(step), _mm512_loadu_ps(scale + {at}))"
        total = f"_mm512_cvtepi32_ps(_mm512_add_epi32(a{part}, b{part}))"
        lines.append(
            f"  _mm512_storeu_ps(sum + {at}, _mm512_fmadd_ps({total}, {scaled}, _mm512_loadu_ps(sum + {at})));"
        )
    return "\n".join(["  size_t g;\n  int32_t first, second;", *lines])


def _avx2_dot() -> str:
    lines = ["  size_t g;\n  int half;\n  (void)start;\n  for (half = 0; half < 2; half++) {"]
    names = [f"s{number}" for number in range(8)]
    lines.append(f"    __m256i {', '.join(f'{name} = _mm256_setzero_si256()' for name in names)};")
    lines.append("    for (g = 0; g < groups; g++) {")
    lines.append("      const int8_t *row = bytes + 256 * g + 128 * half;\n      __m256i v;\n      int64_t four;")
    lines.append("      memcpy(&four, q + 4 * g, 8);\n      v = _mm256_set1_epi64x(four);")
    for number, name in enumerate(names):
        loaded = f"_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)(row + {16 * number})))"
        lines.append(f"      {name} = _mm256_add_epi32({name}, _mm256_madd_epi16(v, {loaded}));")
    lines.append("    }")
    for pair in range(4):
        at = f"32 * half + {8 * pair}"
        total = f"_mm256_permute4x64_epi64(_mm256_hadd_epi32(s{2 * pair}, s{2 * pair + 1}), 0xD8)"
        scaled = f"_mm256_mul_ps(_mm256_set1_ps(step), _mm256_loadu_ps(scale + {at}))"
        lines.append(
            f"    _mm256_storeu_ps(sum + {at}, _mm256_fmadd_ps(_mm256_cvtepi32_ps({total}), {scaled}, "
            f"_mm256_loadu_ps(sum + {at})));"
        )
    return "\n".join([*lines, "  }"])


NEON_DOT = """\
  int32x4_t s[16];
  size_t g;
  int j;
  (void)start;
  for (j = 0; j < 16; j++) s[j] = vdupq_n_s32(0);
  for (g = 0; g < groups; g++) {
    int32_t four;
    int8x16_t v;
    memcpy(&four, q + 4 * g, 4);
    v = vreinterpretq_s8_s32(vdupq_n_s32(four));
    for (j = 0; j < 16; j++) s[j] = vdotq_s32(s[j], vld1q_s8(bytes + 256 * g + 16 * j), v);
  }
  for (j = 0; j < 16; j++) {
    const float32x4_t scaled = vmulq_f32(vdupq_n_f32(step), vld1q_f32(scale + 4 * j));
    vst1q_f32(sum + 4 * j, vfmaq_f32(vld1q_f32(sum + 4 * j), vcvtq_f32_s32(s[j]), scaled));
  }"""

DOTPROD_HEADER = """\
/* Whether dotprod can be asked for while the program runs, or is there anyway. */
#if defined(__aarch64__) && defined(__GNUC__)
#if defined(__ARM_FEATURE_DOTPROD)
#define DOTPROD 1
#elif defined(__linux__) && !defined(__clang__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#define DOTPROD (getauxval(AT_HWCAP) & HWCAP_ASIMDDP)
#endif
#endif
"""

INTEGERS = (
    Integers(
        name="vnni",
        guard=AVX512.guard,
        chosen='__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vnni")',
        target='__attribute__((target("avx512f,avx512vnni")))',
        vectors=AVX512,
        type="uint8_t",
        rounded=(
            "_mm_storeu_si128((__m128i *)(void *)(q + k), _mm512_cvtepi32_epi8(_mm512_add_epi32("
            "_mm512_cvtps_epi32(v), _mm512_set1_epi32(128))));"
        ),
        dot=_vnni_dot(),
    ),
    Integers(
        name="avx2",
        guard=AVX2.guard,
        chosen=AVX2.chosen,
        target=AVX2.target,
        vectors=AVX2,
        type="int16_t",
        rounded=(
            "const __m256i i = _mm256_cvtps_epi32(v);\n      _mm_storeu_si128((__m128i *)(void *)(q + k), "
            "_mm_packs_epi32(_mm256_castsi256_si128(i), _mm256_extracti128_si256(i, 1)));"
        ),
        dot=_avx2_dot(),
    ),
    Integers(
        name="dotprod",
        guard="defined(DOTPROD)",
        chosen="DOTPROD",
        target='__attribute__((target("arch=armv8.2-a+dotprod")))',
        vectors=NEON,
        type="int8_t",
        rounded=(
            "const int16x4_t i = vqmovn_s32(vcvtnq_s32_f32(v));\n"
            "      const int32_t four = vget_lane_s32(vreinterpret_s32_s8(vqmovn_s16(vcombine_s16(i, i))), 0);\n"
            "      memcpy(q + k, &four, 4);"
        ),
        dot=NEON_DOT,
    ),
)

COMMON = Template("""\
$target static float rounded_$name(const float *x, size_t length, $type *q)
{
  /* The largest |x| is 127 levels; what is not finite makes all of the sums NaN. */
  float most = 0, all[$lanes], part[$lanes];
  $vector largest = $zero, odd = $zero;
  const size_t whole = length - length % $lanes;
  size_t k;
  memset(part, 0, sizeof part);
  memcpy(part, x + whole, (length - whole) * sizeof(float));
  for (k = 0; k < length; k += $lanes) {
    const $vector v = $either;
    largest = $largest;
    odd = $odd; /* 0, or NaN for good */
  }
  $store_all;
  for (k = 0; k < $lanes; k++) if (all[k] > most || all[k] != all[k]) most = all[k];
  {
    const $vector levels = $levels;
    for (k = 0; k < length; k += $lanes) {
      const $vector v = $scaled;
      $rounded
    }
  }
  return most < INFINITY ? most * (1.0f / 127) : NAN;
}

$target static void dot_$name(const int8_t *bytes, const $type *q, size_t groups, const int32_t *start, float step,
                              const float *scale, float *sum)
{
$dot
}
""")

LSTM_INT8 = Template("""\
$target static void lstm_int8_$name(const int8_t *bytes, const float *numbers, const int32_t *starts, size_t inputs,
                                    size_t hidden, const float *x, size_t x_row, const float *h, const float *c,
                                    float *y, size_t y_row, float *c_out, size_t steps, int reverse)
{
  const size_t of_x = (inputs + 3) / 4, of_h = (hidden + 3) / 4;
  $type qx[LONGEST], qh[LONGEST];
  size_t t, unit, block;
  memset(qx, 0, sizeof qx);
  memset(qh, 0, sizeof qh);
  for (t = 0; t < steps; t++) {
    const size_t at = reverse ? steps - 1 - t : t;
    const float step_x = rounded_$name(x + at * x_row, inputs, qx), step_h = rounded_$name(h, hidden, qh);
    float *to = y + at * y_row;
    for (unit = 0, block = 0; unit < hidden; unit += $units, block++) {
      const size_t count = hidden - unit < $units ? hidden - unit : $units;
      const int8_t *row = bytes + block * (of_x + of_h) * $group;
      const float *number = numbers + block * 3 * $row;
      const int32_t *start = starts + block * 2 * $row;
      float sum[$row];
      memcpy(sum, number, sizeof sum);
      dot_$name(row, qx, of_x, start, step_x, number + $row, sum);
      dot_$name(row + of_x * $group, qh, of_h, start + $row, step_h, number + 2 * $row, sum);
$activate
    }
    h = to;
    c = c_out;
  }
}
""")

DENSE_INT8 = Template("""\
$target static void dense_int8_$name(const int8_t *bytes, const float *numbers, const int32_t *starts, size_t inputs,
                                     size_t outputs, const float *x, float *y)
{
  const size_t groups = (inputs + 3) / 4;
  $type q[LONGEST];
  size_t o, block;
  float step;
  memset(q, 0, sizeof q);
  step = rounded_$name(x, inputs, q);
  for (o = 0, block = 0; o < outputs; o += $row, block++) {
    const float *number = numbers + block * 2 * $row;
    float sum[$row];
    memcpy(sum, number, sizeof sum);
    dot_$name(bytes + block * groups * $group, q, groups, starts + block * $row, step, number + $row, sum);
    memcpy(y + o, sum, (outputs - o < $row ? outputs - o : $row) * sizeof(float));
  }
}
""")

PLAIN_COMMON = Template("""\
static float rounded_plain(const float *x, size_t length, int8_t *q)
{
  /* The largest |x| is 127 levels; what is not finite makes all of the sums NaN. */
  float most = 0, levels;
  size_t k;
  for (k = 0; k < length; k++) {
    const float size = x[k] < 0 ? -x[k] : x[k];
    if (size > most || size != size) most = size;
  }
  levels = most > 0 && most < INFINITY ? 127 / most : 0;
  for (k = 0; k < length; k++) {
    const float value = most < INFINITY ? x[k] * levels : 0;
    q[k] = (int8_t)(value < 0 ? value - 0.5f : value + 0.5f);
  }
  return most < INFINITY ? most * (1.0f / 127) : NAN;
}

static void dot_plain(const int8_t *bytes, const int8_t *q, size_t groups, const int32_t *start, float step,
                      const float *scale, float *sum)
{
  int32_t total[$row] = {0};
  size_t g, j;
  (void)start;
  for (g = 0; g < groups; g++) {
    const int32_t a = q[4 * g], b = q[4 * g + 1], c = q[4 * g + 2], d = q[4 * g + 3];
    const int8_t *row = bytes + g * $group;
    for (j = 0; j < $row; j++)
      total[j] += a * row[4 * j] + b * row[4 * j + 1] + c * row[4 * j + 2] + d * row[4 * j + 3];
  }
  for (j = 0; j < $row; j++) sum[j] += (float)total[j] * (step * scale[j]);
}
""")

SIGNATURES = {
    "lstm_int8": (
        "static void lstm_int8(const int8_t *bytes, const float *numbers, const int32_t *starts, size_t inputs, "
        "size_t hidden,\n                      const float *x, size_t x_row, const float *h, const float *c, float *y, "
        "size_t y_row,\n                      float *c_out, size_t steps, int reverse)"
    ),
    "dense_int8": (
        "static void dense_int8(const int8_t *bytes, const float *numbers, const int32_t *starts, size_t inputs, "
        "size_t outputs,\n                       const float *x, float *y)"
    ),
}


def functions(integers: Integers, names: set[str]) -> str:
    """The kernels in `names` (`lstm_int8`, `dense_int8`) for one instruction set, whose activations are there."""
    v = integers.vectors
    sizes = {"name": integers.name, "type": integers.type, "row": ROW, "units": UNITS, "group": GROUP * ROW}
    sizes["target"] = integers.target
    size = v.op("most", "v", v.op("multiply", "v", v.number(-1.0)))
    either = f"k < whole ? {v.op('load', 'x + k')} : {v.op('load', 'part')}"
    parts = [
        COMMON.substitute(
            sizes,
            vector=v.type,
            lanes=v.lanes,
            zero=v.op("all", "0.0f"),
            either=either,
            largest=v.op("most", size, "largest"),
            odd=v.op("fma", "v", v.op("all", "0.0f"), "odd"),
            store_all=v.op("store", "all", v.op("add", "largest", "odd")),
            levels=v.op("all", "most > 0 && most < INFINITY ? 127 / most : 0"),
            scaled=v.op("multiply", f"({either})", "levels"),
            rounded=integers.rounded,
            dot=integers.dot,
        )
    ]
    if "lstm_int8" in names:
        gates = [f"{v.type} {name} = {v.op('load', f'sum + {at * v.lanes}')};" for at, name in enumerate(gate_names(v))]
        parts.append(LSTM_INT8.substitute(sizes, activate=indented(gates, 6) + "\n" + activate(v)))
    if "dense_int8" in names:
        parts.append(DENSE_INT8.substitute(sizes))
    return "\n".join(parts)


def plain_functions(names: set[str]) -> str:
    """The same without any instruction set."""
    sizes = {"target": "", "name": "plain", "type": "int8_t", "row": ROW, "units": UNITS, "group": GROUP * ROW}
    parts = [PLAIN_COMMON.substitute(sizes)]
    if "lstm_int8" in names:
        parts.append(LSTM_INT8.substitute(sizes, activate="      size_t j;\n" + PLAIN_GATES).lstrip())
    if "dense_int8" in names:
        parts.append(DENSE_INT8.substitute(sizes).lstrip())
    return "\n".join(parts)
