// The model behind the launch plan: where a block's data lies in shared memory, and how long a plan takes.
#pragma once

#include <array>
#include <cstdint>

#include "launch_plan.h"

namespace ssg::cuda {

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// A symmetric axis has two sides: an output and its mirror.
inline int sides(const Axis& axis) { return axis.symmetric && axis.out > 1 ? 2 : 1; }

// Where a block's data lies in shared memory, in bytes; the map lies at 0.
struct SharedMemory {
  int64_t slots_at = 0;
  int64_t coefficients_at = 0;
  int64_t stage_at = 0;
  int64_t stage_bytes = 0;  // of one buffer of staged logits, all sources
  int64_t bytes = 0;
};
SharedMemory shared_memory_of(const Step& step, const GuidedCall& call, const LaunchPlan& plan);

// Of a group of the FMA engine: rows of coefficients and data maps in each contraction.
struct Sizes {
  int64_t first_rows;
  int64_t first_maps;
  int64_t second_rows;
  int64_t second_maps;
};
Sizes sizes_of(const Step& step, const LaunchPlan& plan);
inline int64_t warp_tiles(int64_t rows, int64_t maps, Cover cover) {
  return ceil_div(rows, cover.rows) * ceil_div(maps, cover.maps);
}
// The coefficients of its contractions, padded to whole tiles: of the second one, of the first one for all groups.
std::array<int64_t, 2> coefficients_of(const Step& step, const LaunchPlan& plan);

// Fills in what follows from a plan's choices; false where they do not fit.
bool complete(const Step& step, const GuidedCall& call, const Machine& machine, LaunchPlan& plan);

}  // namespace ssg::cuda
