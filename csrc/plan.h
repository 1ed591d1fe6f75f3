// How one step is computed: the form, and the factors packed in the order in which a kernel reads them.
#pragma once

#include <memory>
#include <string>

#include "factors.h"

namespace ssg {

// What distinguishes one plan from another; the key of the cache.
struct StepKey {
  Grid size;
  Grid prev_size;
  Prior prior = Prior::dse;
  Interpolation interpolation = Interpolation::bilinear;
  bool rescale = false;
  bool transposed = false;
  int64_t max_rows = 6;  // output pairs that a kernel's registers hold
  bool operator==(const StepKey& other) const {
    return size == other.size && prev_size == other.prev_size && prior == other.prior &&
           interpolation == other.interpolation && rescale == other.rescale && transposed == other.transposed &&
           max_rows == other.max_rows;
  }
};

enum class Form : int8_t { dense, separable };

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

// The axis of the terms' h or w factors; symmetric where all of them are.
Axis make_axis(const std::vector<Term>& terms, bool along_h);

// A factor's row for output pair `pair`, in even/odd coordinates.
struct PairRow {
  std::vector<double> even;
  std::vector<double> odd;
};
PairRow pair_row(const Matrix& factor, const Axis& axis, int64_t pair);

// Output pairs are multiplied in chunks of at most a tile's rows, balanced so that no chunk is small.
struct Chunk {
  int64_t begin = 0;
  int64_t rows = 0;
  int64_t offset = 0;  // into the packed coefficients: in_even x rows, then in_odd x rows
};

// The few non-zero entries of a banded factor's row: `even` taps, then `odd` taps.
template <class T>
struct Taps {
  int64_t even = 0;
  int64_t odd = 0;
  std::vector<int32_t> index;  // [pair][even + odd]
  std::vector<T> coefficient;
  int64_t count() const { return even + odd; }
};

// The coefficients of a step. The first contraction takes the coarse map x[i][j] to slots y[slot], one slot per term
// and coarse column; the second takes the slots of one output row to that row.
template <class T>
struct Plan {
  StepKey key;
  Form form = Form::separable;
  Axis h;
  Axis w;
  int64_t terms = 0;

  // Slots of one row: the even columns of all dense w factors, their odd columns, then the banded ones.
  int64_t slots = 0;
  std::vector<int64_t> slot_even;  // [term]
  std::vector<int64_t> slot_odd;

  // First contraction. A block is a run of row pairs that is multiplied together.
  int64_t block_pairs = 0;
  int64_t blocks = 0;
  std::vector<int64_t> dense_terms;  // terms whose h factor is dense; row r of a block is pair r / n, term r % n
  std::vector<std::vector<Chunk>> block_chunks;
  std::vector<T> h_coefficients;
  std::vector<int64_t> banded_terms;
  std::vector<Taps<T>> h_taps;  // [banded term]

  // Second contraction.
  int64_t dense_even = 0;  // length of the dense product over even slots, and over odd ones
  int64_t dense_odd = 0;
  std::vector<Chunk> w_chunks;
  std::vector<T> w_coefficients;
  Taps<T> w_taps;

  // Multiply-adds per vocabulary column.
  int64_t multiply_adds = 0;
  std::string describe() const;
};

// Throws std::invalid_argument for a key without meaning.
template <class T>
Plan<T> make_plan(const StepKey& key);

// The same, built once per key and shared. Thread-safe.
template <class T>
std::shared_ptr<const Plan<T>> cached_plan(const StepKey& key);

}  // namespace ssg
