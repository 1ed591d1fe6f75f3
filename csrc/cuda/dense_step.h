// A step for the dense engine.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "../step.h"
#include "call.h"

namespace ssg::cuda {

struct DenseStep {
  struct Output {
    int64_t row;
    int64_t column;
  };
  Step step;                    // in the separable form, in which both axes fold
  std::vector<Output> outputs;  // the tokens of the upper left quarter, those with all mirrors first
  int64_t at_once = 0;          // of them, that a warp takes as one item
  int64_t items = 0;
  int64_t whole_items = 0;  // the first ones, whose output tokens all have their mirrors
};

// Nothing for a map that is too large.
std::optional<DenseStep> dense_step(const Step& step, Scalar scalar);

}  // namespace ssg::cuda
