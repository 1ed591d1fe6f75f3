// What the MMA engine sees of a step. Plain C++.
#pragma once

#include <optional>
#include <vector>

#include "../step.h"
#include "tensor_layout.h"
#include "tiles.h"

namespace ssg::cuda {

struct TensorStep {
  TensorSizes sizes;
  std::vector<const Term*> terms;  // the one with windows last
  std::vector<int> starts;         // of the windows, for each eight output rows
};

// The step as a tile takes it, or nothing where the tile does not serve it.
std::optional<TensorStep> tensor_step(const Step& step, const Tile& tile);

}  // namespace ssg::cuda
