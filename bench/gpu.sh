#!/usr/bin/env bash
# On a machine with an NVIDIA GPU, builds for its architecture, checks both GPU backends and measures them. It needs
# this repository, nvcc, and a python3 with torch, Triton, pytest, hypothesis, cmake and ninja.
#
#   bench/gpu.sh [PART...]   runs these parts, by default all. Their results go into build/gpu-results, or into $OUT
#   bench/gpu.sh --list      prints the parts and the seconds that each may take
#
# Each part is a process of its own. One that takes too long is killed, and the next one starts after any failure.
# report.txt says what became of every part and of its tests, and PART.tests has the tests of a killed part too.
# SSG_TEST_DEVICE=cpu tries the script itself without a GPU.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
device=${SSG_TEST_DEVICE:-cuda}
backends=(cuda triton)
[ "$device" = cpu ] && backends=(cpu)
export PYTHONPATH=$PWD:$PWD/tests PYTHONUNBUFFERED=1 SSG_TEST_DEVICE=$device

# name, seconds
parts=()
[ "$device" = cpu ] || parts+=("build 200")
for backend in "${backends[@]}"; do
  parts+=("parity-$backend 180" "runtime-$backend 100" "sampling-$backend 90")
done
if [ "$device" != cpu ] && command -v compute-sanitizer >/dev/null; then
  for backend in "${backends[@]}"; do parts+=("sanitize-$backend 120"); done
fi
for backend in "${backends[@]}"; do parts+=("times-$backend 200" "draws-$backend 90"); done
if [ "${1:-}" = --list ]; then printf '%s\n' "${parts[@]}"; exit; fi

out=${OUT:-build/gpu-results}
mkdir -p "$out"
out=$(cd "$out" && pwd)

build() {
  local capability
  capability=$("$python" -c 'import torch; print("%d%d" % torch.cuda.get_device_capability())') &&
    cmake -S . -B build/gpu -G Ninja -DCMAKE_BUILD_TYPE=Release -DPython_EXECUTABLE="$(command -v "$python")" \
      -DSSG_BUILD_HOST=ON -DSSG_CUDA=ON -DSSG_CUDA_ARCHITECTURES="$capability-real" >/dev/null &&
    cmake --build build/gpu -- --quiet &&
    cmake --install build/gpu --prefix ssg_kernels >/dev/null &&
    "$python" -m ssg_kernels info
}
tests() {  # tests FILE BACKEND
  local pick=()
  [ "$device" = cpu ] && pick=(-k "not last_steps")  # a processor takes minutes for these
  SSG_TEST_BACKENDS=$2 SSG_REQUIRE_BACKENDS=$2 SSG_TEST_REPORT=$out/$1-$2.tests "$python" -m pytest \
    "tests/gpu/test_$1.py" -q "${pick[@]}" -p no:cacheprovider --junitxml="$out/$1-$2.xml" --durations=8
}
sanitize() {
  # Without the tool first: Triton keeps what it compiles, and under the tool compiling is slow.
  "$python" tests/gpu/sanitize.py || return
  for tool in memcheck racecheck; do
    compute-sanitizer --tool "$tool" --error-exitcode 9 "$python" tests/gpu/sanitize.py || return
  done
}
times() {  # the contenders of PyTorch are timed once, with the first backend
  local contenders=()
  [ "$1" = "${backends[0]}" ] || contenders=(--contenders baddbmm copy_fresh)
  local cases=()
  [ "$device" = cpu ] && cases=(--cases var256-3-4 --dtypes float32 --no-compile --budget 0.01)
  "$python" -m bench.gpu --device "$device" --backends "$1" "${contenders[@]}" "${cases[@]}" --out "$out/times-$1.json"
}
draws() {
  for batch in 1 64; do
    local models=(VAR-256)
    [ "$batch" = 1 ] && models+=(HART Infinity-2B Switti)
    [ "$device" = cpu ] && models=(Infinity-2B)
    "$python" -m bench.sampling --device "$device" --last --batch "$batch" --budget 0.2 --models "${models[@]}" \
      --out "$out/draws-$1-$batch.json" || return
    [ "$device" = cpu ] && break
  done
}
run() {
  local what=${1%%-*} backend=${1#*-}
  [ "$what" = build ] || export SSG_KERNELS_BACKEND=$backend
  case $what in
    parity | runtime | sampling) tests "$what" "$backend" ;;
    *) "$what" "$backend" ;;
  esac
}
if [ "${1:-}" = --run ]; then run "$2"; exit; fi

wanted=" ${*:-} "
for name in "$@"; do
  [[ " ${parts[*]} " == *" $name "* ]] || { echo "no part $name; bench/gpu.sh --list prints them" >&2; exit 2; }
done
failed=()
for part in "${parts[@]}"; do
  name=${part% *} seconds=${part#* }
  [ $# -eq 0 ] || [[ $wanted == *" $name "* ]] || continue
  printf '\n== %s, at most %d s\n' "$name" "$seconds"
  began=$SECONDS
  # Python takes SIGINT as an interruption and still writes its reports. What hangs in the driver is killed.
  timeout --signal=INT --kill-after=15 "$seconds" "$0" --run "$name" 2>&1 | tee "$out/$name.log" | tail -n 60
  code=${PIPESTATUS[0]}
  verdict=passed
  [ "$code" -eq 0 ] || { verdict="failed with status $code"; failed+=("$name"); }
  [ "$code" -ne 124 ] && [ "$code" -ne 137 ] || verdict="killed after $seconds s"
  tests=$out/$name.tests
  counts=
  [ ! -f "$tests" ] || counts=": $(cut -d' ' -f1 "$tests" | sort | uniq -c | xargs)"
  line="$name: $verdict, $((SECONDS - began)) s$counts"
  echo "$line"
  { echo "$line"; [ ! -f "$tests" ] || grep -v '^\(passed\|skipped\) ' "$tests" | sed 's/^/  /'; } >>"$out/report.txt"
done
printf '\n== done\n'
[ ${#failed[@]} -eq 0 ] || { echo "failed: ${failed[*]}"; exit 1; }
