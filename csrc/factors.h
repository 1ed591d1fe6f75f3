// The prior as a sum of separable terms: prior = sum_t weight_t * H_t x W_t^T, all in float64.
#pragma once

#include <cstdint>
#include <vector>

#include "matrix.h"
#include "names.h"

namespace ssg {

// cos(pi k / n), with all digits near each zero.
double cos_pi(int64_t k, int64_t n);

// One axis of torch.nn.functional.interpolate(align_corners=False) as a (to x from) matrix, computed in float64.
Matrix interpolation_matrix(int64_t from, int64_t to, Interpolation interpolation);

// The three factors of one axis, from -> to. B copies the coarse spectrum, G is the low band of the interpolated map
// (docs/method.md). With C_n the orthonormal DCT-II of size n, P is the first `from` rows of C_to.
struct AxisFactors {
  Matrix interpolated;  // U
  Matrix spliced;       // B = g P^T C_from
  Matrix low_band;      // G = P^T P U
};
AxisFactors axis_factors(int64_t from, int64_t to, Interpolation interpolation, bool rescale);

struct Term {
  Matrix h;
  Matrix w;
};

// A product of two 64-bit numbers.
__extension__ using Wide = __int128;

struct Grid {
  int64_t h = 0;
  int64_t w = 0;
  Wide tokens() const { return static_cast<Wide>(h) * w; }
  bool operator==(const Grid& other) const { return h == other.h && w == other.w; }
};

// The terms of the prior from `prev_size` to `size`, or of its transpose from `size` to `prev_size`. Terms that share a
// factor are merged, so an axis that does not grow costs nothing.
std::vector<Term> prior_terms(Grid size, Grid prev_size, Prior prior, Interpolation interpolation, bool rescale,
                              bool transposed);

// The sum of the terms as one (output tokens) x (input tokens) matrix.
Matrix dense_operator(const std::vector<Term>& terms);

}  // namespace ssg
