// The CPU kernel: one pass over the logits, tiled over the vocabulary.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "../call.h"
#include "plan.h"

namespace ssg::cpu {

// out[b] = sum_s current_weight[b][s] * current[s][b] + P(sum_s previous_weight[b][s] * previous[s][b]), where the sums
// run over the sources.
struct GuidedCall : ssg::GuidedCall {
  const double* weights = nullptr;  // [batch][2 * sources]: the current sources' weights, then the previous ones'
};

// What a strip takes of a thread's memory, in strips of vocabulary columns.
struct Layout {
  static constexpr int64_t kColumns = 4;  // of the map that are transformed together

  int64_t row_stride = 0;    // from row to row of the map
  int64_t slots_stride = 0;  // from row to row of the slots
  int64_t map = 0;
  int64_t addend = 0;
  int64_t slots = 0;
  int64_t outputs = 0;    // for each strip that is finished at once
  int64_t temporary = 0;  // once for all strips
  int64_t strip() const { return map + addend + slots; }
};
template <class T>
Layout layout_of(const Plan<T>& plan);

// How a call is cut into tasks. Tasks are numbered by sample, then by columns, then by rows.
struct Split {
  int64_t strips = 1;         // of a task; neighbouring columns share the pages of each row
  int64_t visit = 1;          // strips that are computed together
  int64_t finished = 1;       // strips that are finished at once, 2^n
  bool fetches = true;        // logits, before they are needed
  int64_t column_groups = 1;  // tasks along the vocabulary
  int64_t row_groups = 1;     // tasks along the output rows
};

// The tasks that are left. Each worker has a share of its own, the same in every call, since what a share reads and writes
// may still lie in its processor's cache. A worker whose share is done takes tasks of the others: some may run on a shared
// processor.
class Tasks {
 public:
  Tasks(int64_t count, int64_t workers);
  // The next task of a worker, or -1 if none is left.
  int64_t take(int64_t worker);

 private:
  static constexpr int64_t kMaxShares = 64;
  struct alignas(64) Share {
    std::atomic<int64_t> next;
  };
  int64_t begin(int64_t share) const { return share * count_ / shares_; }

  int64_t count_;
  int64_t shares_;
  Share share_[kMaxShares];
};

struct SampleCall;

// A kernel compiled for one instruction set.
struct Kernel {
  const char* name;
  int64_t accumulators;   // for PlanKey::accumulators
  int64_t strip_float32;  // vocabulary columns in registers
  int64_t strip_float64;
  void (*run_float)(const Plan<float>&, const GuidedCall&, const Split&, Tasks&, int64_t worker);
  void (*run_double)(const Plan<double>&, const GuidedCall&, const Split&, Tasks&, int64_t worker);
  int64_t (*sample_rows)(const SampleCall&, int64_t begin, int64_t end);  // returns as `sample` does, see sample.h
};

// The widest kernel that this processor runs; SSG_KERNELS_CPU_CAPABILITY=avx512|avx2|baseline asks for a narrower one.
const Kernel& kernel();

using Body = void (*)(const void* context, int64_t begin, int64_t end);
// Calls body on parts of [0, tasks), which it may split among threads.
using Parallel = void (*)(int64_t tasks, int64_t grain, Body body, const void* context);

// Computes the whole step. `threads` is the number of workers of `parallel`; the result does not depend on it.
void run(const StepKey& step, const GuidedCall& call, int64_t threads, Parallel parallel);

}  // namespace ssg::cpu
