#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>

#include "kernel.h"
#include "sample.h"

namespace ssg::cpu {

#if defined(SSG_HAVE_AVX512)
namespace avx512 {
extern const Kernel kKernel;
}
#endif
#if defined(SSG_HAVE_AVX2)
namespace avx2 {
extern const Kernel kKernel;
}
#endif
namespace baseline {
extern const Kernel kKernel;
}

namespace {

const Kernel& choose() {
  const char* asked = std::getenv("SSG_KERNELS_CPU_CAPABILITY");
  const auto allows = [asked](const char* name) {
    return asked == nullptr || *asked == '\0' || std::strcmp(asked, name) == 0 ||
           (std::strcmp(asked, "avx512") == 0 && std::strcmp(name, "baseline") != 0);
  };
#if defined(SSG_HAVE_AVX512)
  if (allows("avx512") && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    return avx512::kKernel;
#endif
#if defined(SSG_HAVE_AVX2)
  if (allows("avx2") && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("f16c"))
    return avx2::kKernel;
#endif
  (void)allows;
  return baseline::kKernel;
}

template <class T>
using Run = void (*)(const Plan<T>&, const GuidedCall&, const Split&, int64_t, int64_t);

template <class T>
struct Work {
  const Plan<T>& plan;
  const GuidedCall& call;
  Split split;
  Run<T> run;
};

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <class T>
Split split_of(const Plan<T>& plan, const GuidedCall& call, int64_t strip, int64_t threads) {
  // A task keeps its data in half of a second-level cache; the logits that stream through use the other half. A large
  // map takes more, since a task of a single strip would waste most of the pages and lines that every row touches.
  constexpr int64_t kTaskBytes = int64_t{512} << 10;
  constexpr int64_t kLargeTaskBytes = int64_t{960} << 10;
  constexpr int64_t kMaxStrips = 16;
  const int64_t slots = plan.form == Form::dense ? 0 : 2 * plan.block_pairs * plan.slots;
  const int64_t strip_bytes = strip * static_cast<int64_t>(sizeof(T)) * (plan.h.in * plan.w.in + slots);
  const int64_t strips = ceil_div(call.vocabulary, strip);
  Split split;
  split.strips = std::clamp<int64_t>(kTaskBytes / strip_bytes, 2 * strip_bytes <= kLargeTaskBytes ? 2 : 1, kMaxStrips);
  // There should be enough tasks for all threads. Tasks get fewer columns first, and then fewer rows, which makes
  // several tasks load the same map.
  const int64_t wanted = threads > 1 ? 4 * threads : 1;
  split.strips = std::clamp<int64_t>(call.batch * strips / wanted, 1, split.strips);
  // Every thread should get the same number of tasks.
  const int64_t rounds = ceil_div(call.batch * ceil_div(strips, split.strips), threads);
  split.strips = ceil_div(call.batch * strips, rounds * threads);
  split.column_groups = ceil_div(strips, split.strips);
  const int64_t tasks = call.batch * split.column_groups;
  if (tasks < wanted) split.row_groups = std::min(plan.blocks, ceil_div(wanted, tasks));
  return split;
}

template <class T>
void run_with(const Plan<T>& plan, const GuidedCall& call, int64_t strip, int64_t threads, Parallel parallel,
              Run<T> run) {
  const Work<T> work{plan, call, split_of(plan, call, strip, threads), run};
  // Waking a thread is worth it for some microseconds of work. Work counts in multiply-adds; an element that is loaded
  // or stored counts for eight.
  constexpr int64_t kWorthwhile = 1'000'000;
  const int64_t tasks = call.batch * work.split.column_groups * work.split.row_groups;
  const int64_t cost = call.batch * call.vocabulary *
                       (plan.multiply_adds + 8 * (plan.h.out * plan.w.out + plan.h.in * plan.w.in)) / tasks;
  const int64_t grain = std::max<int64_t>(1, kWorthwhile / std::max<int64_t>(cost, 1));
  parallel(
      tasks, grain,
      [](const void* context, int64_t begin, int64_t end) {
        const Work<T>& work = *static_cast<const Work<T>*>(context);
        work.run(work.plan, work.call, work.split, begin, end);
      },
      &work);
}

}  // namespace

const Kernel& kernel() {
  static const Kernel& chosen = choose();
  return chosen;
}

void run(const StepKey& step, const GuidedCall& call, int64_t threads, Parallel parallel) {
  if (call.batch == 0 || call.vocabulary == 0) return;
  const Kernel& chosen = kernel();
  const PlanKey key{step, chosen.max_rows};
  if (call.scalar == Scalar::float64)
    run_with<double>(*cached_plan<double>(key), call, chosen.strip_float64, threads, parallel, chosen.run_double);
  else
    run_with<float>(*cached_plan<float>(key), call, chosen.strip_float32, threads, parallel, chosen.run_float);
}

int64_t sample(const SampleCall& call, Parallel parallel) {
  struct Draws {
    const SampleCall& call;
    std::atomic<int64_t> first_empty;
  };
  const int64_t rows = call.batch * call.tokens;
  Draws draws{call, {rows}};
  // Waking a thread is worth it for about ten microseconds of work. A logit takes about two nanoseconds.
  constexpr int64_t kWorthwhile = 16384;
  const int64_t grain = std::max<int64_t>(1, kWorthwhile / (call.vocabulary + 16));
  parallel(
      rows, grain,
      [](const void* context, int64_t begin, int64_t end) {
        auto& draws = *static_cast<Draws*>(const_cast<void*>(context));
        const int64_t empty = kernel().sample_rows(draws.call, begin, end);
        if (empty < 0) return;
        int64_t first = draws.first_empty.load();
        while (empty < first && !draws.first_empty.compare_exchange_weak(first, empty)) {
        }
      },
      &draws);
  return draws.first_empty == rows ? -1 : draws.first_empty.load();
}

}  // namespace ssg::cpu
