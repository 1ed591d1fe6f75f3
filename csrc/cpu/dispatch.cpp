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
using Run = void (*)(const Plan<T>&, const GuidedCall&, const Split&, Tasks&, int64_t worker);

template <class T>
struct Work {
  const Plan<T>& plan;
  const GuidedCall& call;
  Split split;
  Run<T> run;
  Tasks& tasks;
};

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <class T>
Split split_of(const Plan<T>& plan, const GuidedCall& call, int64_t strip, int64_t workers) {
  // A visit takes as many strips as have their maps in a first-level cache. Strips lie side by side in every token, and
  // memory serves long runs faster: logits that a second-level cache does not hold are read in runs of 512 bytes, if it
  // holds the maps of as many strips. Two strips may take more of it.
  constexpr int64_t kRunBytes = 512;
  constexpr int64_t kFirstLevel = int64_t{64} << 10;
  constexpr int64_t kSecondLevel = int64_t{1536} << 10;
  constexpr int64_t kMaps = int64_t{1} << 20;  // of a second-level cache
  constexpr int64_t kMaxVisit = 32;
  const Layout layout = layout_of(plan);
  const int64_t strip_bytes = strip * static_cast<int64_t>(sizeof(T)) * layout.strip();
  const int64_t strips = ceil_div(call.vocabulary, strip);
  const int64_t item = item_bytes(call.scalar);
  const int64_t in = plan.in_h * plan.in_w;
  const int64_t out = plan.out_h * plan.out_w;
  const int64_t bytes = call.batch * call.vocabulary * item * (call.sources * (in + out) + out);
  const int64_t least = 2 * strip_bytes <= kSecondLevel ? 2 : 1;
  const int64_t run =
      bytes <= kSecondLevel ? 1 : std::clamp(kMaps / strip_bytes, least, std::max(least, kRunBytes / (strip * item)));
  Split split;
  split.visit = std::max<int64_t>({std::min(kFirstLevel / strip_bytes, kMaxVisit), run, 1});
  // There should be enough tasks for all workers. Tasks get fewer columns first. Rows are shared out only where there
  // would be less than a task for each worker, since each of them prepares the same map.
  constexpr int64_t kMaxStrips = 16;
  const int64_t wanted = workers > 1 ? 4 * workers : 1;
  split.strips = std::clamp<int64_t>(call.batch * strips / wanted, 1, std::max(kMaxStrips, split.visit));
  split.visit = std::min(split.visit, split.strips);
  split.strips = ceil_div(split.strips, split.visit) * split.visit;
  // Several strips are finished at once where a cache holds all logits: the processor itself fetches long runs from there
  // in time. Two sources may have their tokens in the same few sets of a cache: several strips are finished at once for
  // them too, where memory binds. What is finished at once stays in a first-level cache.
  constexpr int64_t kCached = int64_t{3} << 20;  // more of them may have left the caches since they were written
  constexpr int64_t kFinishedBytes = int64_t{16} << 10;
  const bool is_cached = bytes <= kCached;
  const bool memory_binds = 2 * bytes > plan.multiply_adds * call.batch * call.vocabulary;
  const int64_t outputs = std::max<int64_t>(layout.outputs, 1);
  const int64_t most = std::min(split.visit, kFinishedBytes / (strip * static_cast<int64_t>(sizeof(T)) * outputs));
  if (is_cached || (memory_binds && call.sources == 2))
    while (2 * split.finished <= most) split.finished *= 2;
  split.fetches = !is_cached || split.finished == 1;
  split.column_groups = ceil_div(strips, split.strips);
  const int64_t tasks = call.batch * split.column_groups;
  if (tasks < workers) split.row_groups = std::min(plan.row_groups(), ceil_div(workers, tasks));
  return split;
}

template <class T>
void run_with(const Plan<T>& plan, const GuidedCall& call, int64_t strip, int64_t threads, Parallel parallel,
              Run<T> run) {
  // Waking a thread is worth it for some microseconds of work. Work counts in multiply-adds; an element that is loaded
  // or stored counts for eight.
  constexpr int64_t kWorthwhile = 500'000;
  const int64_t cost =
      call.batch * call.vocabulary * (plan.multiply_adds + 8 * (plan.out_h * plan.out_w + plan.in_h * plan.in_w));
  int64_t workers = std::clamp<int64_t>(cost / kWorthwhile, 1, threads);
  const Split split = split_of(plan, call, strip, workers);
  const int64_t count = call.batch * split.column_groups * split.row_groups;
  workers = std::min(workers, count);
  Tasks tasks(count, workers);
  const Work<T> work{plan, call, split, run, tasks};
  parallel(
      workers, 1,
      [](const void* context, int64_t worker, int64_t) {
        const Work<T>& work = *static_cast<const Work<T>*>(context);
        work.run(work.plan, work.call, work.split, work.tasks, worker);
      },
      &work);
}

}  // namespace

template <class T>
Layout layout_of(const Plan<T>& plan) {
  Layout layout;
  // An even number of cache lines per row would map a column's rows to a few cache sets.
  layout.row_stride = plan.row | 1;
  layout.map = plan.in_h * layout.row_stride;
  layout.addend = plan.addend_rows() * plan.out_w;
  layout.slots_stride = plan.w.in() | 1;
  layout.slots = plan.h.empty() ? 0 : plan.group_rows() * layout.slots_stride;
  for (const Chunk& chunk : plan.w.chunks) layout.outputs = std::max(layout.outputs, chunk.outputs);
  layout.temporary = plan.lifted * plan.in_w;
  for (const auto& group : plan.groups) {
    const auto rows = static_cast<int64_t>(group.size());
    layout.temporary = std::max(layout.temporary, rows * plan.in_w + (rows + 1) * plan.w.in());
    layout.temporary = std::max(layout.temporary, Layout::kColumns * plan.in_h);
  }
  return layout;
}
template Layout layout_of<float>(const Plan<float>&);
template Layout layout_of<double>(const Plan<double>&);

Tasks::Tasks(int64_t count, int64_t workers) : count_(count), shares_(std::min(workers, kMaxShares)) {
  for (int64_t share = 0; share < shares_; ++share) share_[share].next.store(begin(share), std::memory_order_relaxed);
}

int64_t Tasks::take(int64_t worker) {
  for (int64_t other = 0; other < shares_; ++other) {
    const int64_t share = (worker + other) % shares_;
    const int64_t end = begin(share + 1);
    std::atomic<int64_t>& next = share_[share].next;
    if (next.load(std::memory_order_relaxed) >= end) continue;
    const int64_t task = next.fetch_add(1, std::memory_order_relaxed);
    if (task < end) return task;
  }
  return -1;
}

const Kernel& kernel() {
  static const Kernel& chosen = choose();
  return chosen;
}

void run(const StepKey& step, const GuidedCall& call, int64_t threads, Parallel parallel) {
  if (call.batch == 0 || call.vocabulary == 0) return;
  const Kernel& chosen = kernel();
  const PlanKey key{step, chosen.accumulators};
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
