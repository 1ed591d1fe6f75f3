// The coefficients of a step, packed in the order in which an engine reads them. Plain C++.
#pragma once

#include <vector>

#include "../step.h"
#include "launch_plan.h"
#include "params.h"

namespace ssg::cuda {

// FMA engine:   [k][rows], the even k first. The rows are padded with zeros to a multiple of kFmaRows.
// Dense engine: [item][k][output token], those past the last one 0; then the coarse tokens and the output tokens.
// MMA engine:   see pack_tensor.cpp.
// Direct form:  the factors themselves, [term][output][input].
template <class T>
struct Packed {
  std::vector<T> values;  // of the h factors, group by group, then of the w factors
  int64_t w_at = 0;
  Coefficients h;  // without data
  Coefficients w;
  int64_t coarse_at = 0;  // dense engine only
  int64_t tokens_at = 0;
  // MMA engine only.
  int64_t starts_at = 0;
  int64_t exact_h_at = 0;
  int64_t exact_w_at = 0;
};
template <class T>
Packed<T> pack(const Step& step, const LaunchPlan& plan);

Packed<float> pack_tensor(const Step& step, const LaunchPlan& plan);

}  // namespace ssg::cuda
