// What one step is on any device: the key that names it, its axes and their symmetry, and the form in which it costs
// least.
#pragma once

#include <cstdint>
#include <tuple>
#include <vector>

#include "factors.h"

namespace ssg {

// What distinguishes one step from another.
struct StepKey {
  Grid size;
  Grid prev_size;
  Prior prior = Prior::dse;
  Interpolation interpolation = Interpolation::bilinear;
  bool rescale = false;
  bool transposed = false;
  auto tie() const {
    return std::tie(size.h, size.w, prev_size.h, prev_size.w, prior, interpolation, rescale, transposed);
  }
  bool operator==(const StepKey& other) const { return tie() == other.tie(); }
  bool operator<(const StepKey& other) const { return tie() < other.tie(); }
};

// The terms of the prior. Throws std::invalid_argument for a key without meaning.
std::vector<Term> terms_of(const StepKey& key);

// One axis in even/odd coordinates. With i' = in - 1 - i the mirror of i, even coordinate i holds x_i + x_i' and odd
// coordinate i holds x_i - x_i'; outputs r and r' are then the sum and the difference of one even and one odd product.
// An axis whose factors lack the symmetry keeps all its coordinates in the even half, and each output is its own pair.
struct Axis {
  int64_t in = 0;
  int64_t out = 0;
  bool symmetric = false;
  int64_t in_even() const { return symmetric ? (in + 1) / 2 : in; }
  int64_t in_odd() const { return symmetric ? in / 2 : 0; }
  int64_t pairs() const { return symmetric ? (out + 1) / 2 : out; }
  // The mirror of output r, or r itself where it has none.
  int64_t mirror(int64_t r) const { return symmetric ? out - 1 - r : r; }
};

// A factor's row for output pair `pair`, in even/odd coordinates.
struct PairRow {
  std::vector<double> even;
  std::vector<double> odd;
};
PairRow pair_row(const Matrix& factor, const Axis& axis, int64_t pair);

// How many non-zero coordinates the rows of a factor have at most.
struct Band {
  int64_t even = 0;
  int64_t odd = 0;
  int64_t count() const { return even + odd; }
  // Whether a product with the non-zero entries alone is cheaper. The rows of a full product share their operands,
  // while each of these entries reads its own: the band must be half as wide as the axis.
  bool is_narrow(const Axis& axis) const { return 2 * count() <= axis.in || axis.in == 1; }
};
Band band_of(const Matrix& factor, const Axis& axis);

// Separable: for each term a contraction along h, then one along w.
// Dense: one matrix from all coarse tokens to all fine ones. It is the separable form of a grid of one row.
enum class Form : int8_t { dense, separable };

struct Step {
  StepKey key;
  Form form = Form::separable;
  std::vector<Term> terms;
  Axis h;
  Axis w;
  std::vector<Band> h_bands;  // [term]
  std::vector<Band> w_bands;
  bool one_row = false;  // the first contraction does nothing: one term, whose h factor is the identity of size 1
  int64_t term_count() const { return static_cast<int64_t>(terms.size()); }
  // The slots of a row, which the first contraction hands to the second: one per term and coarse column.
  int64_t slots() const { return term_count() * w.in; }
  // Per vocabulary column, with a full or a banded product for each factor.
  int64_t multiply_adds() const;
};

// The step in the separable form.
Step make_separable_step(const StepKey& key);
// The step in the form that costs less. Throws std::invalid_argument for a key without meaning.
Step make_step(const StepKey& key);

}  // namespace ssg
