"""The inner loops as C: an LSTM layer and a dense layer, once for each instruction set, and in plain C.

The weights of an LSTM layer lie in blocks of `UNITS` hidden units. A block has a row of `4 * UNITS` numbers (gates i,
o, f, c as in ONNX) for the bias, one for each input and one for each unit of `h`, so that a block's gates are sums that
stay in registers, and its activations follow at once. The instruction set is chosen at run time where the compiler can
ask the CPU, and at compile time elsewhere; none needs a flag, and none changes what floating-point arithmetic means.

    exp(x)  = 2^n p(r),  n = round(x / ln 2),  r = x - n ln 2    p: minimax of degree 6 on |r| <= ln 2 / 2, off by 2e-9
    tanh(x) = x P(x^2) / Q(x^2)  on |x| <= 9.1                   minimax of degrees 4 and 4, off by 2.3e-8

Both are within 4e-7 of libm in float32, relative to the value.
"""

from collections.abc import Sequence
from string import Template
from typing import NamedTuple, Protocol

from lstm_deploy.artifacts import ROW, UNITS

EXP = (
    0.0013843653723597527,
    0.00837415549904108,
    0.04166800156235695,
    0.16666431725025177,
    0.4999999403953552,
    1.0,
    1.0,
)
"""Coefficients of p, the highest power first."""
TANH_P = (1.3177515967299769e-08, 2.0481180399656296e-05, 0.0034878107253462076, 0.1337447464466095, 1.0)
TANH_Q = (7.704043127887417e-07, 0.0003272919566370547, 0.025847386568784714, 0.4670778810977936, 1.0)


class Vectors(NamedTuple):
    """How an instruction set does what the loops need; `a`, `b` and `c` stand for operands."""

    name: str
    guard: str
    """Condition of the preprocessor under which it can be compiled."""
    chosen: str
    """Expression that tells at run time whether the CPU has it."""
    target: str
    """What its functions are marked with."""
    type: str
    lanes: int
    load: str
    store: str
    all: str
    fma: str
    add: str
    multiply: str
    divide: str
    least: str
    """The smaller of a number and NaN or a number: NaN stays."""
    most: str
    round: str
    power_of_two: str
    total: str

    def op(self, name: str, a: str, b: str = "", c: str = "") -> str:
        """One operation in C."""
        return str(getattr(self, name)).format(a=a, b=b, c=c)

    def number(self, value: float) -> str:
        """A vector of one number."""
        return self.op("all", number(value))


X86 = "defined(__x86_64__) && defined(__GNUC__)"


def _x86(name: str, bits: int, features: Sequence[str], **more: str) -> Vectors:
    """An instruction set of x86, whose operations are alike but for the width in their names."""
    mm = f"_mm{bits}"
    return Vectors(
        name=name,
        guard=X86,
        chosen=" && ".join(f'__builtin_cpu_supports("{feature}")' for feature in features),
        target=f'__attribute__((target("{",".join(features)}")))',
        type=f"__m{bits}",
        lanes=bits // 32,
        load=f"{mm}_loadu_ps({{a}})",
        store=f"{mm}_storeu_ps({{a}}, {{b}})",
        all=f"{mm}_set1_ps({{a}})",
        fma=f"{mm}_fmadd_ps({{a}}, {{b}}, {{c}})",
        add=f"{mm}_add_ps({{a}}, {{b}})",
        multiply=f"{mm}_mul_ps({{a}}, {{b}})",
        divide=f"{mm}_div_ps({{a}}, {{b}})",
        least=f"{mm}_min_ps({{b}}, {{a}})",
        most=f"{mm}_max_ps({{b}}, {{a}})",
        **more,
    )


VECTORS = (
    _x86(
        "avx512",
        512,
        ["avx512f"],
        round="_mm512_roundscale_ps({a}, 8)",
        power_of_two="_mm512_scalef_ps(_mm512_set1_ps(1.0f), {a})",
        total="_mm512_reduce_add_ps({a})",
    ),
    _x86(
        "avx2",
        256,
        ["avx2", "fma"],
        round="_mm256_round_ps({a}, 8)",
        power_of_two=(
            "_mm256_castsi256_ps(_mm256_slli_epi32("
            "_mm256_add_epi32(_mm256_cvtps_epi32({a}), _mm256_set1_epi32(127)), 23))"
        ),
        total="total_avx2({a})",
    ),
    Vectors(
        name="neon",
        guard="defined(__aarch64__) && defined(__GNUC__)",
        chosen="1",
        target="",
        type="float32x4_t",
        lanes=4,
        load="vld1q_f32({a})",
        store="vst1q_f32({a}, {b})",
        all="vdupq_n_f32({a})",
        fma="vfmaq_f32({c}, {a}, {b})",
        add="vaddq_f32({a}, {b})",
        multiply="vmulq_f32({a}, {b})",
        divide="vdivq_f32({a}, {b})",
        least="vminq_f32({a}, {b})",
        most="vmaxq_f32({a}, {b})",
        round="vrndnq_f32({a})",
        power_of_two="vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtq_s32_f32({a}), vdupq_n_s32(127)), 23))",
        total="vaddvq_f32({a})",
    ),
)

INCLUDES = """\
#if defined(__x86_64__) && defined(__GNUC__)
#if !defined(__clang__) /* GCC warns of its own header: https://gcc.gnu.org/bugzilla/show_bug.cgi?id=105593 */
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#elif defined(__aarch64__) && defined(__GNUC__)
#include <arm_neon.h>
#endif
"""

TOTAL_AVX2 = """\
__attribute__((target("avx2,fma"))) static inline float total_avx2(__m256 a)
{
  __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  b = _mm_add_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}
"""

ACTIVATIONS = Template("""\
$target static inline $type sigmoid_$name($type x)
{
  /* 1 / (1 + exp(-x)): exactly 1 from 18 on, so that a cell which keeps its value keeps it */
  const $type a = $negative, z = $in_powers_of_two;
  const $type n = $whole;
  const $type r = $rest;
  $type p = $exp_first;
$exp_rest
  p = $power;
  return $sigmoid;
}

$target static inline $type tanh_$name($type x)
{
  const $type a = $tanh_argument, u = $squared;
  $type p = $p_first, q = $q_first;
$pq_rest
  p = $tanh;
  return $tanh_limited;
}
""")

LSTM = Template("""\
$target static void lstm_$name(const float *weights, size_t inputs, size_t hidden, const float *x, size_t x_row,
                               const float *h, const float *c, float *y, size_t y_row, float *c_out, size_t steps,
                               int reverse)
{
  size_t t, unit, k;
  int part;
  for (t = 0; t < steps; t++) {
    const size_t at = reverse ? steps - 1 - t : t;
    const float *row = weights, *now = x + at * x_row;
    float *to = y + at * y_row;
    for (unit = 0; unit < hidden; unit += $units) {
      const size_t count = hidden - unit < $units ? hidden - unit : $units;
$declare
      row += $row;
      for (part = 0; part < 2; part++) {
        const float *v = part ? h : now;
        const size_t length = part ? hidden : inputs;
        k = 0;
$loop
      }
$join
$activate
    }
    h = to;
    c = c_out;
  }
}
""")

DENSE = Template("""\
$target static void dense_$name(const float *weights, const float *bias, size_t inputs, size_t outputs, const float *x,
                                float *y)
{
  size_t o, k;
  for (o = 0; o < outputs; o++) {
    const float *row = weights + o * inputs;
    float sum = bias ? bias[o] : 0.0f;
    $type a = $zero, b = $zero;
    for (k = 0; k < inputs - inputs % (2 * $lanes); k += 2 * $lanes) {
      a = $fma_a;
      b = $fma_b;
    }
    sum += $total;
    for (; k < inputs; k++) sum += row[k] * x[k];
    y[o] = sum;
  }
}
""")

PLAIN_GATES = f"""\
      for (j = 0; j < count; j++) {{
        const float i = sigmoid_plain(sum[j]), o = sigmoid_plain(sum[{UNITS} + j]);
        const float f = sigmoid_plain(sum[{2 * UNITS} + j]), g = tanh_plain(sum[{3 * UNITS} + j]);
        const float kept = f * c[unit + j] + i * g;
        c_out[unit + j] = kept;
        to[unit + j] = o * tanh_plain(kept);
      }}"""

PLAIN_ACTIVATIONS = Template("""\
static float sigmoid_plain(float x)
{
  /* 1 / (1 + exp(-x)): exactly 1 from 18 on, so that a cell which keeps its value keeps it */
  const float a = x > 87.0f ? -87.0f : x < -87.0f ? 87.0f : x == x ? -x : 0.0f, z = a * 1.44269504f;
  const int32_t n = (int32_t)(z < 0.0f ? z - 0.5f : z + 0.5f);
  const float r = (a - (float)n * 0.693359375f) + (float)n * 2.12194440e-4f;
  const int32_t bits = (n + 127) * 8388608;
  float p = $exp_first, power;
$exp_rest
  memcpy(&power, &bits, sizeof power);
  return x == x ? 1.0f / (1.0f + p * power) : x;
}

static float tanh_plain(float x)
{
  const float a = x > 9.1f ? 9.1f : x < -9.1f ? -9.1f : x, u = a * a;
  float p = $tp_first, q = $tq_first, y;
$tpq_rest
  y = a * p / q;
  return y > 1.0f ? 1.0f : y < -1.0f ? -1.0f : y;
}
""")

PLAIN_LSTM = Template("""\
static void lstm_plain(const float *weights, size_t inputs, size_t hidden, const float *x, size_t x_row, const float *h,
                       const float *c, float *y, size_t y_row, float *c_out, size_t steps, int reverse)
{
  size_t t, unit, k;
  int part;
  for (t = 0; t < steps; t++) {
    const size_t at = reverse ? steps - 1 - t : t;
    const float *row = weights, *now = x + at * x_row;
    float *to = y + at * y_row;
    for (unit = 0; unit < hidden; unit += $units) {
      const size_t count = hidden - unit < $units ? hidden - unit : $units;
      float sum[$row];
      size_t j;
      memcpy(sum, row, sizeof sum);
      row += $row;
      for (part = 0; part < 2; part++) {
        const float *v = part ? h : now;
        const size_t length = part ? hidden : inputs;
        for (k = 0; k < length; k++, row += $row) {
          const float value = v[k];
          for (j = 0; j < $row; j++) sum[j] += value * row[j];
        }
      }
$gates
    }
    h = to;
    c = c_out;
  }
}
""")

PLAIN_DENSE = """\
static void dense_plain(const float *weights, const float *bias, size_t inputs, size_t outputs, const float *x,
                        float *y)
{
  size_t o, k;
  for (o = 0; o < outputs; o++) {
    float sum = bias ? bias[o] : 0.0f;
    for (k = 0; k < inputs; k++) sum += weights[o * inputs + k] * x[k];
    y[o] = sum;
  }
}
"""

SIGNATURES = {
    "lstm": (
        "static void lstm(const float *weights, size_t inputs, size_t hidden, const float *x, size_t x_row, "
        "const float *h,\n                 const float *c, float *y, size_t y_row, float *c_out, size_t steps, "
        "int reverse)"
    ),
    "dense": (
        "static void dense(const float *weights, const float *bias, size_t inputs, size_t outputs, const float *x,\n"
        "                  float *y)"
    ),
}


class Choice(Protocol):
    """What can be chosen when the program runs."""

    @property
    def name(self) -> str: ...

    @property
    def guard(self) -> str: ...

    @property
    def chosen(self) -> str: ...


def dispatch(signature: str, choices: Sequence[Choice]) -> str:
    """A function that hands its arguments to the one for the CPU it runs on."""
    name = signature.split("(", maxsplit=1)[0].rsplit(maxsplit=1)[-1]
    arguments = ", ".join(part.split()[-1].lstrip("*") for part in signature[:-1].split("(", 1)[1].split(","))
    lines = [f"{signature}\n{{"]
    for each in choices:
        lines += [f"#if {each.guard}", f"  if ({each.chosen}) {{"]
        lines += [f"    {name}_{each.name}({arguments});", "    return;", "  }", "#endif"]
    return "\n".join([*lines, f"  {name}_plain({arguments});", "}\n"])


def functions(v: Vectors, names: set[str]) -> str:
    """The kernels in `names` (`lstm`, `dense`, and those of int8, which need activations) for one instruction set."""
    parts = []
    if names & {"lstm", "lstm_int8"}:
        parts.append(activations(v))
    if "lstm" in names:
        parts.append(_lstm(v))
    if "dense" in names:
        parts += [TOTAL_AVX2] if v.name == "avx2" else []
        parts.append(_dense(v))
    return "\n".join(parts)


def plain_functions(names: set[str]) -> str:
    """The same in plain C."""
    polynomials = {
        "exp_first": number(EXP[0]),
        "exp_rest": _scalar_polynomial("p", EXP, "r"),
        "tp_first": number(TANH_P[0]),
        "tq_first": number(TANH_Q[0]),
        "tpq_rest": _scalar_polynomial("p", TANH_P, "u") + "\n" + _scalar_polynomial("q", TANH_Q, "u"),
    }
    parts = []
    if names & {"lstm", "lstm_int8"}:
        parts.append(PLAIN_ACTIVATIONS.substitute(polynomials))
    if "lstm" in names:
        parts.append(PLAIN_LSTM.substitute(units=UNITS, row=ROW, gates=PLAIN_GATES))
    if "dense" in names:
        parts.append(PLAIN_DENSE)
    return "\n".join(parts)


def activations(v: Vectors) -> str:
    """`sigmoid` and `tanh` of a vector."""

    def polynomial(name: str, coefficients: tuple[float, ...], of: str) -> str:
        return "\n".join(f"  {name} = {v.op('fma', name, of, v.number(each))};" for each in coefficients[1:])

    def limited(value: str, bound: float) -> str:
        return v.op("least", v.op("most", value, v.number(-bound)), v.number(bound))

    high, low, one = v.number(-0.693359375), v.number(2.12194440e-4), v.number(1.0)
    return ACTIVATIONS.substitute(
        target=v.target,
        type=v.type,
        name=v.name,
        negative=limited(v.op("multiply", "x", v.number(-1.0)), 87.0),
        in_powers_of_two=v.op("multiply", "a", v.number(1.44269504)),
        whole=v.op("round", "z"),
        rest=v.op("fma", "n", low, v.op("fma", "n", high, "a")),
        exp_first=v.number(EXP[0]),
        exp_rest=polynomial("p", EXP, "r"),
        power=v.op("multiply", "p", v.op("power_of_two", "n")),
        sigmoid=v.op("divide", one, v.op("add", one, "p")),
        tanh_argument=limited("x", 9.1),
        squared=v.op("multiply", "a", "a"),
        p_first=v.number(TANH_P[0]),
        q_first=v.number(TANH_Q[0]),
        pq_rest=polynomial("p", TANH_P, "u") + "\n" + polynomial("q", TANH_Q, "u"),
        tanh=v.op("divide", v.op("multiply", "a", "p"), "q"),
        tanh_limited=limited("p", 1.0),
    )


def gate_names(v: Vectors) -> list[str]:
    """The vectors of one row of a block, in order."""
    return [f"{gate}{part}" for gate in "iofg" for part in range(UNITS // v.lanes)]


def activate(v: Vectors) -> str:
    """What turns the gates of a block (see `gate_names`) into its cells and outputs."""
    lines = [f"float cell[{UNITS}] = {{0}}, out[{UNITS}];", "memcpy(cell, c + unit, count * sizeof(float));"]
    for part in range(UNITS // v.lanes):
        at = f"cell + {part * v.lanes}"
        new = v.op("multiply", f"sigmoid_{v.name}(i{part})", f"tanh_{v.name}(g{part})")
        kept = v.op("fma", f"sigmoid_{v.name}(f{part})", v.op("load", at), new)
        out = v.op("multiply", f"sigmoid_{v.name}(o{part})", f"tanh_{v.name}(g{part})")
        lines += [f"g{part} = {kept};", f"{v.op('store', at, f'g{part}')};"]
        lines += [f"{v.op('store', f'out + {part * v.lanes}', out)};"]
    lines += ["memcpy(c_out + unit, cell, count * sizeof(float));", "memcpy(to + unit, out, count * sizeof(float));"]
    return "\n".join(f"      {line}" for line in lines)


def _lstm(v: Vectors) -> str:
    names = gate_names(v)
    # Vectors so wide that a row has but four of them are summed in two sets, or each addition would wait for the last.
    double = len(names) < 8

    def added(suffix: str, value: str, row: str) -> list[str]:
        return [
            f"{name}{suffix} = {v.op('fma', v.op('load', f'{row} + {number * v.lanes}'), value, name + suffix)};"
            for number, name in enumerate(names)
        ]

    declare = [f"{v.type} {name} = {v.op('load', f'row + {at * v.lanes}')};" for at, name in enumerate(names)]
    loop, join = [], []
    if double:
        zero = v.op("all", "0.0f")
        declare += [f"{v.type} {', '.join(f'{name}b = {zero}' for name in names)};"]
        first, second = v.op("all", "v[k]"), v.op("all", "v[k + 1]")
        loop += [f"for (; k < length - length % 2; k += 2, row += 2 * {ROW}) {{"]
        loop += [f"  const {v.type} first = {first}, second = {second};"]
        loop += [f"  {line}" for line in (*added("", "first", "row"), *added("b", "second", f"row + {ROW}"))]
        loop += ["}"]
        join += [f"{name} = {v.op('add', name, f'{name}b')};" for name in names]
    loop += [f"for (; k < length; k++, row += {ROW}) {{", f"  const {v.type} value = {v.op('all', 'v[k]')};"]
    loop += [f"  {line}" for line in added("", "value", "row")]
    loop += ["}"]
    return LSTM.substitute(
        target=v.target,
        name=v.name,
        units=UNITS,
        row=ROW,
        declare=indented(declare, 6),
        loop=indented(loop, 8),
        join=indented(join, 6),
        activate=activate(v),
    )


def indented(lines: list[str], spaces: int) -> str:
    """Lines of C, so far to the right."""
    return "\n".join(" " * spaces + line for line in lines)


def _dense(v: Vectors) -> str:
    def products(offset: int, total: str) -> str:
        at = f"k + {offset}" if offset else "k"
        return v.op("fma", v.op("load", f"row + {at}"), v.op("load", f"x + {at}"), total)

    return DENSE.substitute(
        target=v.target,
        name=v.name,
        type=v.type,
        lanes=v.lanes,
        zero=v.op("all", "0.0f"),
        fma_a=products(0, "a"),
        fma_b=products(v.lanes, "b"),
        total=v.op("total", v.op("add", "a", "b")),
    )


def _scalar_polynomial(name: str, coefficients: tuple[float, ...], of: str) -> str:
    return "\n".join(f"  {name} = {name} * {of} + {number(each)};" for each in coefficients[1:])


def number(value: float) -> str:
    """A constant of these texts in C, as it stands in Python."""
    text = f"{value:.9g}"
    return f"{text}f" if "." in text or "e" in text else f"{text}.0f"
