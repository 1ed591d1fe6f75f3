// The launch plan of a step: which tile, how many warps, how the work is cut. search.cpp tries the possible plans, and
// model.cpp predicts how long each takes. Plain C++.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "../step.h"
#include "call.h"
#include "tiles.h"

namespace ssg::cuda {

struct Machine {
  int capability = 90;  // 10 * major + minor
  int multiprocessors = 132;
  int shared_per_block = 227 << 10;
  int shared_per_multiprocessor = 228 << 10;
};
// The machine that a compute capability implies.
Machine machine_of(int capability, int multiprocessors);

// How a step is launched. A plan does not change once it is chosen.
struct LaunchPlan {
  // The choices. The MMA engine has 8 warps on the same columns, and groups of its own.
  Tile tile;
  int column_warps = 1;
  int warps = 8;
  int group_pairs = 1;
  int splits = 1;
  // What follows from them.
  int lanes_h = 1;
  int lanes_w = 1;
  int64_t shared_bytes = 0;
  int64_t blocks = 0;
  int resident = 1;         // blocks on a multiprocessor at once
  double arithmetic = 0.0;  // predicted cycles of a multiprocessor for the arithmetic of the whole step
  double traffic = 0.0;     // for its memory traffic
  double latency = 0.0;     // for what the blocks of a multiprocessor wait for
  double cycles = 0.0;      // in all
  bool is_direct() const { return tile.engine == Engine::direct; }
  int columns() const { return warp_columns(tile) * (tile.engine == Engine::mma ? 1 : column_warps); }
  std::string describe() const;
};

// For each tile that serves the call, the plan with the fewest predicted cycles.
std::vector<LaunchPlan> candidates(const Step& step, const GuidedCall& call, const Machine& machine);
// Of these the one with the fewest; the direct form where no other fits.
LaunchPlan plan_launch(const Step& step, const GuidedCall& call, const Machine& machine);
// The plan with the given choices, for tests. Throws std::invalid_argument where they do not fit the machine.
LaunchPlan plan_launch(const Step& step, const GuidedCall& call, const Machine& machine, const LaunchPlan& choices);

}  // namespace ssg::cuda
