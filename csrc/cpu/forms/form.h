// The forms of a step, each as a plan in float64, and what they share.
#pragma once

#include <optional>
#include <vector>

#include "../plan.h"
#include "axis.h"

namespace ssg::cpu {

// The terms as they are. One whose factors are banded becomes the banded part.
Plan<double> separable_form(const PlanKey& key, Structure structure, const std::vector<Term>& terms);

Plan<double> rank_form(const PlanKey& key, const Factors& h, const Factors& w);

// None for axes that are asymmetric, very long or much longer than before, and where a bracket mixes many rows.
std::optional<Plan<double>> spectrum_form(const PlanKey& key, const Factors& h, const Factors& w);

// What a plan costs, in multiply-adds. Those of taps and brackets read an operand each and count twice, and from the
// fifth tap of h_taps on three times. A slot that passes through memory costs about one, and beginning a tile sixteen.
int64_t cost_of(const Plan<double>& plan);

// A plan with sizes and no parts yet.
Plan<double> plan_of(const PlanKey& key, Structure structure, const Side& h, const Side& w);

// A dense term A_h X A_w^T, where X is a run of the map's columns.
struct Piece {
  Matrix h;  // over the map's rows
  Matrix w;  // over the run's columns, odd ones first
  int64_t odd = 0;
  int64_t from_odd = 0;  // the run's first odd column in the map, and its first even one
  int64_t from_even = 0;
};

// Sets the dense part. All odd slots come before all even ones, whose pieces stand in reverse order: so a piece that
// lies between the halves of another one in the map does so among the slots.
void set_dense(Plan<double>& plan, const std::vector<Piece>& pieces, const Side& h, const Side& w);

// The plan with the number of its multiply-adds.
Plan<double> counted(Plan<double> plan);

}  // namespace ssg::cpu
