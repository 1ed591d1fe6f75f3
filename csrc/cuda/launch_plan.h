// How a step is launched: an analytic plan from the step's geometry and the machine's figures, and the coefficients
// packed as the chosen engine reads them. Plain C++.
#pragma once

#include <string>
#include <vector>

#include "params.h"

namespace ssg::cuda {

struct Machine {
  int capability = 90;  // 10 * major + minor
  int multiprocessors = 132;
  int shared_per_block = 227 << 10;
  int shared_per_multiprocessor = 228 << 10;
};
// The machine that a compute capability implies.
Machine machine_of(int capability, int multiprocessors);

enum class Engine : int8_t { fma, mma, direct };

// Frozen once chosen.
struct LaunchPlan {
  Engine engine = Engine::direct;
  int thread_columns = 1;
  int chunks = 1;  // MMA engine: of 8 rows of coefficients, that a warp takes at once in the second contraction
  int column_warps = 1;
  int warps = 8;
  int group_pairs = 1;
  int splits = 1;
  int lanes_h = 1;
  int lanes_w = 1;
  int64_t shared_bytes = 0;
  int64_t blocks = 0;
  int resident = 1;         // blocks on a multiprocessor at once
  double arithmetic = 0.0;  // cycles per multiprocessor for the whole step, by the model in launch_plan.cpp
  double traffic = 0.0;     // the same for memory
  double cycles = 0.0;      // what the model expects in all
  int columns() const { return 8 * thread_columns * column_warps; }
  std::string describe() const;
};

// The step's geometry: what a plan depends on besides the machine.
struct Shape {
  bool one_row = false;
  int64_t terms = 1;
  Axis h;
  Axis w;
  std::vector<Term> factors;
};
// The dense form is the separable one on a grid of one row, as in plan.h.
Shape shape_of(const StepKey& key);

LaunchPlan plan_launch(const Shape& shape, const Step& step, const Machine& machine);
// The plan with the given choices, for tests. Throws std::invalid_argument where they do not fit the machine.
LaunchPlan plan_launch(const Shape& shape, const Step& step, const Machine& machine, const LaunchPlan& choices);

// Coefficients of one key for an engine and a group size.
template <class T>
struct Packed {
  std::vector<T> values;  // h, then w
  int64_t w_at = 0;
  Coefficients h;  // without data
  Coefficients w;
};
template <class T>
Packed<T> pack(const Shape& shape, Engine engine, int group_pairs);

// Everything but the coefficients' addresses.
Params params_of(const Shape& shape, const LaunchPlan& plan, const Step& step);
// Another call of the same kind: addresses, strides and strengths.
void set_step(Params& params, const Step& step);
template <class T>
void set_coefficients(Params& params, const Packed<T>& packed, const T* data);
template <class T>
void set_coefficients(DirectParams& params, const Packed<T>& packed, const T* data);

DirectParams direct_params_of(const Shape& shape, const Step& step);

}  // namespace ssg::cuda
