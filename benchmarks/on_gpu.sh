#!/usr/bin/env bash
# All that has to be seen on a GPU, in about eight minutes: the tests that need one, parity of each kind of bundle, and
# latency of three sizes. Each step has a limit and a log of its own, so that one that hangs costs no other.
#
#   benchmarks/on_gpu.sh OUT [PROVIDER]      OUT/summary.txt is what it prints; PROVIDER is cuda, or cpu to rehearse
#
# On a machine without a registry begin with `. ./.gpu/setup.sh`, from `make gpu-pack`.
set -u
cd "$(dirname "$0")/.."
out=${1:?give a folder for logs and results}
provider=${2:-cuda}
mkdir -p "$out"
out=$(cd "$out" && pwd)
: > "$out/summary.txt"
export OMP_NUM_THREADS=1 PYTHONUNBUFFERED=1
python=python3
[ -x .venv/bin/python ] && python=.venv/bin/python
failures=0

step() { # SECONDS NAME COMMAND…
  local limit=$1 name=$2 start=$SECONDS code
  shift 2
  timeout "$limit" "$@" < /dev/null > "$out/$name.log" 2>&1
  code=$?
  [ "$code" = 0 ] || failures=$((failures + 1))
  printf '%-24s exit %3d, %3d s: %s\n' "$name" "$code" $((SECONDS - start)) "$(tail -n 1 "$out/$name.log")" |
    tee -a "$out/summary.txt"
}

rm -rf "$out/bundles"
step 60 environment "$python" -m lstm_deploy env
step 120 bundles "$python" benchmarks/gpu_bundles.py "$out/bundles"
for kind in characters bidirectional cells rollout; do
  step 90 "validate-$kind" "$python" -m lstm_deploy validate "$out/bundles/$kind" --provider "$provider"
done
step 150 tests "$python" -m pytest -q -p no:cacheprovider tests/runtimes -k cuda -rs
for size in 65-128x2 1-64x1 64-512x2; do
  step 100 "latency-$size" "$python" benchmarks/sizes.py --provider "$provider" --only "$size" --short --rounds 10 \
    --results "$out"
done
echo "$failures step(s) failed; logs in $out" | tee -a "$out/summary.txt"
exit "$((failures > 0))"
