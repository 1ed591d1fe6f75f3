// Which form of a step costs least.
#pragma once

#include "../plan.h"

namespace ssg::cpu {

// Throws std::invalid_argument for a key without meaning.
Plan<double> cheapest_form(const PlanKey& key);

}  // namespace ssg::cpu
