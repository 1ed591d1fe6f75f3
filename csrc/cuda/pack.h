// The coefficients of a step, packed in the order in which an engine reads them. Plain C++.
#pragma once

#include <vector>

#include "../step.h"
#include "params.h"
#include "tiles.h"

namespace ssg::cuda {

// FMA engine:   [k][rows], the even k first. The rows are padded with zeros to a multiple of kFmaRows.
// MMA engine:   [chunk of 8 rows][step of 8 k, the even k first][lane] fragments of four floats. Lane 4 g + l holds
//               row g of the chunk: high(k = l), high(k = l + 4), low(k = l), low(k = l + 4), where high + low is the
//               coefficient and both are tf32 numbers. What lies past the end is zero.
// Direct form:  the factors themselves, [term][output][input].
template <class T>
struct Packed {
  std::vector<T> values;  // of the h factors, group by group, then of the w factors
  int64_t w_at = 0;
  Coefficients h;  // without data
  Coefficients w;
};
template <class T>
Packed<T> pack(const Step& step, Engine engine, int group_pairs);

}  // namespace ssg::cuda
