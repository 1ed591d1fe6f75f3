#include <algorithm>
#include <sstream>
#include <stdexcept>

#include "kernel.h"
#include "model.h"

namespace ssg::cuda {
namespace {

// Calls f with every way to cut the work of a step for the FMA engine.
template <class F>
void each_cut(const Step& step, F&& f) {
  const int64_t pairs = step.h.pairs();
  LaunchPlan plan;
  for (const int column_warps : {1, 2, 4})
    for (const int warps : {4, 8, 16})
      for (int64_t group_pairs = 1; group_pairs <= std::min<int64_t>(pairs, 16); ++group_pairs) {
        const int64_t groups = ceil_div(pairs, group_pairs);
        // 1, 2, 4, ... and, last, one group for each split.
        for (int64_t splits = 1; splits <= groups;
             splits = splits < groups ? std::min(2 * splits, groups) : groups + 1) {
          plan.column_warps = column_warps;
          plan.warps = warps;
          plan.group_pairs = static_cast<int>(group_pairs);
          plan.splits = static_cast<int>(splits);
          f(plan);
        }
      }
}

// The same for the dense engine.
template <class F>
void each_count_of_warps(F&& f) {
  LaunchPlan plan;
  for (plan.warps = 1; plan.warps <= kMostDenseWarps; ++plan.warps) f(plan);
}

// The same for the MMA engine, whose groups are its own.
template <class F>
void each_split(const Step& step, F&& f) {
  const int64_t most = ceil_div(step.h.out, 8);
  LaunchPlan plan;
  for (int64_t splits = 1; splits <= most; splits = splits < most ? std::min(2 * splits, most) : most + 1) {
    plan.splits = static_cast<int>(splits);
    f(plan);
  }
}

}  // namespace

LaunchPlan plan_launch(const Step& step, const GuidedCall& call, const Machine& machine, const LaunchPlan& choices) {
  LaunchPlan plan = choices;
  if (plan.is_direct()) return plan;
  if (!complete(step, call, machine, plan)) throw std::invalid_argument("this plan does not fit: " + plan.describe());
  return plan;
}

std::vector<LaunchPlan> candidates(const Step& step, const GuidedCall& call, const Machine& machine) {
  std::vector<LaunchPlan> found;
  for (const Tile& tile : kTiles) {
    LaunchPlan best;
    const auto consider = [&](LaunchPlan plan) {
      plan.tile = tile;
      if (!complete(step, call, machine, plan)) return;
      // The first of equal plans stays: it has fewer warps.
      if (best.is_direct() || plan.cycles < best.cycles * 0.999) best = plan;
    };
    if (tile.engine == Engine::dense)
      each_count_of_warps(consider);
    else if (tile.engine == Engine::mma)
      each_split(step, consider);
    else
      each_cut(step, consider);
    if (!best.is_direct()) found.push_back(best);
  }
  return found;
}

LaunchPlan plan_launch(const Step& step, const GuidedCall& call, const Machine& machine) {
  LaunchPlan best;  // the direct form, where nothing else fits
  for (const LaunchPlan& plan : candidates(step, call, machine))
    // The first of plans that the model cannot tell apart stays: it has wider accesses.
    if (best.is_direct() || plan.cycles < best.cycles * 0.999) best = plan;
  return best;
}

std::string LaunchPlan::describe() const {
  std::ostringstream text;
  if (is_direct()) return "direct, a thread per element";
  text << (tile.engine == Engine::dense ? "dense" : tile.engine == Engine::fma ? "fma" : "mma float16");
  if (tile.in != 0) text << " for " << tile.in << " -> " << tile.out;
  text << ", " << blocks << " blocks of " << warps << " warps x " << columns() << " columns (" << tile.thread_columns
       << " a thread), ";
  if (tile.engine != Engine::dense)
    text << group_pairs << (tile.engine == Engine::fma ? " row pairs" : " rows") << " at once, " << splits
         << (splits == 1 ? " split, " : " splits, ");
  text << shared_bytes << " bytes shared, " << resident << " resident; model: " << static_cast<int64_t>(cycles)
       << " cycles (arithmetic " << static_cast<int64_t>(arithmetic) << ", memory " << static_cast<int64_t>(traffic)
       << ", latency " << static_cast<int64_t>(latency) << ")";
  return text.str();
}

std::string describe(const StepKey& key, const GuidedCall& call, int compute_capability, int multiprocessors) {
  return plan_launch(make_step(key), call, machine_of(compute_capability, multiprocessors)).describe();
}

}  // namespace ssg::cuda
