#!/usr/bin/env bash
# On a machine with an NVIDIA GPU, builds for its architecture, checks both GPU backends and measures them. This takes
# less than nine minutes. It needs this repository, nvcc, and a python3 with torch, Triton, pytest, hypothesis, cmake
# and ninja.
#
#   bench/gpu.sh [FOLDER]    writes gpu.json, sampling-*.json, parity.xml and the logs into FOLDER (default: build/gpu-results)
set -uo pipefail
cd "$(dirname "$0")/.."
out=$(mkdir -p "${1:-build/gpu-results}" && cd "${1:-build/gpu-results}" && pwd)
python=${PYTHON:-python3}
export PYTHONPATH=$PWD:$PWD/tests PYTHONUNBUFFERED=1 SSG_REQUIRE_BACKENDS=${SSG_REQUIRE_BACKENDS-cuda,triton}
failed=()
step() { printf '\n== %s (%d s)\n' "$1" "$SECONDS"; }
# limit NAME SECONDS COMMAND...: runs the command for at most SECONDS, keeps its output, and goes on if it fails.
limit() {
  local name=$1 seconds=$2
  shift 2
  timeout --kill-after=10 "$seconds" "$@" 2>&1 | tee "$out/$name.log" | tail -n "${LINES_SHOWN:-15}"
  local code=${PIPESTATUS[0]}
  [ "$code" -eq 0 ] || { echo "$name: exit status $code"; failed+=("$name"); }
}

step "build"
capability=$("$python" -c 'import torch; print("%d%d" % torch.cuda.get_device_capability())') || exit 1
limit build 110 bash -euc '
  cmake -S . -B build/gpu -G Ninja -DCMAKE_BUILD_TYPE=Release -DPython_EXECUTABLE="$(command -v "$1")" \
    -DSSG_BUILD_HOST=ON -DSSG_CUDA=ON -DSSG_CUDA_ARCHITECTURES="$2-real" >/dev/null
  cmake --build build/gpu -- --quiet
  cmake --install build/gpu --prefix ssg_kernels >/dev/null' build "$python" "$capability"
"$python" -m ssg_kernels info

step "parity"
LINES_SHOWN=40 limit parity 150 "$python" -m pytest tests/gpu -q --junitxml="$out/parity.xml" --durations=8

if command -v compute-sanitizer >/dev/null; then
  step "compute-sanitizer"
  for tool in memcheck racecheck; do
    for backend in cuda triton; do
      SSG_KERNELS_BACKEND=$backend LINES_SHOWN=4 limit "$tool-$backend" 20 \
        compute-sanitizer --tool "$tool" --error-exitcode 9 "$python" tests/gpu/sanitize.py
    done
  done
fi

step "benchmark"
LINES_SHOWN=70 limit benchmark 130 "$python" -m bench.gpu --out "$out/gpu.json"

step "sampling"
for backend in cuda triton; do
  for batch in 1 64; do
    models=$([ "$batch" = 1 ] && echo VAR-256 HART Infinity-2B Switti || echo VAR-256)
    SSG_KERNELS_BACKEND=$backend limit "sampling-$backend-$batch" 17 "$python" -m bench.sampling --device cuda --last \
      --batch "$batch" --budget 0.2 --models $models --out "$out/sampling-$backend-$batch.json"
  done
done

step "done"
[ ${#failed[@]} -eq 0 ] || { echo "failed: ${failed[*]}"; exit 1; }
