// Sampling on the CPU: one token per row, by top-k, top-p and the inverse CDF of a uniform number, without a sort.
#pragma once

#include <cstdint>

#include "kernel.h"

namespace ssg::cpu {

// out[r] is the token of row r = b * tokens + t. ssg_kernels.reference.sample_weights says what it must be.
struct Sampling {
  Scalar scalar = Scalar::float32;
  int64_t batch = 0;
  int64_t tokens = 0;
  int64_t vocabulary = 0;
  Logits logits;
  const void* uniform = nullptr;
  bool uniform_is_double = false;
  int64_t uniform_batch_stride = 0;
  int64_t uniform_token_stride = 0;
  const double* scale = nullptr;  // [batch], positive and finite
  int64_t top_k = 0;              // 0 keeps all
  double top_p = 0.0;             // likewise
  int64_t* out = nullptr;
};

// Draws every row. Returns the first row whose largest logit is not finite, or -1; such rows get the token -1.
int64_t sample(const Sampling& sampling, Parallel parallel);

}  // namespace ssg::cpu
