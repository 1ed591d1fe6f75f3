// Sampling on the CPU: one token per row, by top-k, top-p and the inverse CDF of a uniform number, without a sort.
#pragma once

#include <cstdint>

#include "kernel.h"

namespace ssg::cpu {

struct SampleCall : ssg::SampleCall {
  const double* scale = nullptr;  // [batch], positive and finite: what the logits are multiplied by
  const double* top_k = nullptr;  // [batch], whole numbers; 0 keeps all
  const double* top_p = nullptr;  // [batch], from 0 to 1; 0 keeps all
};

// Draws the token of every row. A row whose largest logit is not finite gets -1. Returns the first such row, or -1.
int64_t sample(const SampleCall& call, Parallel parallel);

}  // namespace ssg::cpu
