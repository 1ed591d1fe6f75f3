// The forms of a step in float64, each as a plan, and the one that costs least.
#pragma once

#include "plan.h"

namespace ssg::cpu {

// Throws std::invalid_argument for a key without meaning.
Plan<double> cheapest_form(const PlanKey& key);

}  // namespace ssg::cpu
