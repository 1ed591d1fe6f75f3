// The CPU kernel: one pass over the logits, tiled over the vocabulary.
#pragma once

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

// How a call is cut into tasks. Tasks are numbered by sample, then by columns, then by rows.
struct Split {
  int64_t strips = 1;         // of a task; neighbouring columns share the pages of each row
  int64_t column_groups = 1;  // tasks along the vocabulary
  int64_t row_groups = 1;     // tasks along the output rows
};

struct SampleCall;

// A kernel compiled for one instruction set.
struct Kernel {
  const char* name;
  int64_t max_rows;       // output pairs in registers, for PlanKey::max_rows
  int64_t strip_float32;  // vocabulary columns in registers
  int64_t strip_float64;
  void (*run_float)(const Plan<float>&, const GuidedCall&, const Split&, int64_t begin, int64_t end);
  void (*run_double)(const Plan<double>&, const GuidedCall&, const Split&, int64_t begin, int64_t end);
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
