#include "dense_step.h"

#include <algorithm>

#include "model.h"

namespace ssg::cuda {

std::optional<DenseStep> dense_step(const Step& step, Scalar scalar) {
  const int64_t inputs = step.h.in * step.w.in;
  if (inputs > kMostDenseTokens) return std::nullopt;
  DenseStep made;
  made.step = step.form == Form::separable ? step : make_separable_step(step.key);
  made.at_once = scalar == Scalar::float64 ? 2 : 4;
  const Axis& h = made.step.h;
  const Axis& w = made.step.w;
  made.items = ceil_div(h.pairs() * w.pairs(), made.at_once);
  if (made.items * inputs > kMostDenseLoads) return std::nullopt;
  for (int64_t row = 0; row < h.pairs(); ++row)
    for (int64_t column = 0; column < w.pairs(); ++column) made.outputs.push_back({row, column});
  const auto rest = std::stable_partition(made.outputs.begin(), made.outputs.end(), [&](const auto& output) {
    return h.mirror(output.row) != output.row && w.mirror(output.column) != output.column;
  });
  made.whole_items = (rest - made.outputs.begin()) / made.at_once;
  return made;
}

}  // namespace ssg::cuda
