"""The kernels' own exp and tanh against libm's, for each instruction set that this machine has."""

import math
import subprocess

import pytest
from c_programs import NEEDS_CC, PROCESSORS, STRICT

from lstm_deploy.exporters.c.kernels import kernel_source

pytestmark = NEEDS_CC

MAIN = """
#include <stdio.h>

#if defined(__x86_64__) && defined(__GNUC__)
__attribute__((target("avx512f"))) static void wide512(const float *x, float *s, float *t)
{
  _mm512_storeu_ps(s, sigmoid_avx512(_mm512_loadu_ps(x)));
  _mm512_storeu_ps(t, tanh_avx512(_mm512_loadu_ps(x)));
}
__attribute__((target("avx2,fma"))) static void wide256(const float *x, float *s, float *t)
{
  size_t k;
  for (k = 0; k < 16; k += 8) {
    _mm256_storeu_ps(s + k, sigmoid_avx2(_mm256_loadu_ps(x + k)));
    _mm256_storeu_ps(t + k, tanh_avx2(_mm256_loadu_ps(x + k)));
  }
}
#endif

static void all(const float *x, float *s, float *t)
{
  size_t k;
#if defined(__x86_64__) && defined(__GNUC__)
  if (__builtin_cpu_supports("avx512f")) { wide512(x, s, t); return; }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) { wide256(x, s, t); return; }
#endif
  for (k = 0; k < 16; k++) { s[k] = sigmoid_plain(x[k]); t[k] = tanh_plain(x[k]); }
}

int main(void)
{
  double worst_s = 0, worst_t = 0, relative_t = 0;
  float x[16], s[16], t[16];
  long step;
  size_t k;
  for (step = -1200000; step < 1200000; step += 16) {
    for (k = 0; k < 16; k++) x[k] = (float)(step + (long)k) * (step % 7 ? 1e-4f : 1e-6f);
    all(x, s, t);
    for (k = 0; k < 16; k++) {
      const double rs = 1 / (1 + exp(-(double)x[k])), rt = tanh((double)x[k]);
      if (fabs(s[k] - rs) > worst_s) worst_s = fabs(s[k] - rs);
      if (fabs(t[k] - rt) > worst_t) worst_t = fabs(t[k] - rt);
      if (rt != 0 && fabs(t[k] / rt - 1) > relative_t) relative_t = fabs(t[k] / rt - 1);
    }
  }
  for (k = 0; k < 16; k++) x[k] = (float)k * 12.5f + 18;
  x[13] = NAN; x[14] = INFINITY; x[15] = -INFINITY;
  all(x, s, t);
  printf("%g %g %g\\n", worst_s, worst_t, relative_t);
  for (k = 0; k < 16; k++) printf("%.9g %.9g\\n", s[k], t[k]);
  return 0;
}
"""


@pytest.mark.parametrize("processor", PROCESSORS)
def test_activations_are_within_a_millionth_of_libm(processor, tmp_path):
    includes = "#include <math.h>\n#include <stdint.h>\n#include <string.h>\n\n"
    (tmp_path / "main.c").write_text(includes + kernel_source({"lstm"}, 0) + MAIN)
    flags = [flag for flag in STRICT if flag not in ("-Wall", "-Wextra")]
    command = [
        "cc",
        *flags,
        "-O2",
        *PROCESSORS[processor],
        str(tmp_path / "main.c"),
        "-o",
        str(tmp_path / "main"),
        "-lm",
    ]
    subprocess.run(command, check=True)
    first, *rest = subprocess.run([tmp_path / "main"], check=True, capture_output=True, text=True).stdout.splitlines()
    assert max(map(float, first.split())) < 1e-6
    values = [[float(word) for word in line.split()] for line in rest]
    assert values[:13] == [[1.0, 1.0]] * 13  # exactly: a cell that keeps its value keeps it
    assert all(map(math.isnan, values[13]))
    assert values[14] == [1.0, 1.0]
    assert values[15][0] == pytest.approx(0, abs=1e-30)
    assert values[15][1] == -1.0
