// A step as the CPU kernel computes it: a short program of few parts, with its coefficients packed in the order in which
// the kernel reads them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "../step.h"

namespace ssg::cpu {

// What distinguishes one plan from another: the key of the cache.
struct PlanKey {
  StepKey step;
  int64_t accumulators = 12;  // strips that a kernel's registers hold as sums
  bool operator==(const PlanKey& other) const { return step == other.step && accumulators == other.accumulators; }
};

// Folding an axis of n entries puts the difference x_i - x_i' of an entry and its mirror i' = n - 1 - i at i, and their
// sum at i'. A second fold does the same to the sums. So the coordinates of a folded axis lie in classes: the odd ones,
// after a second fold the odd ones of the sums, then what is even throughout. An axis without symmetry is not folded and
// has one class.
constexpr int64_t kMostFolds = 2;

// Rows of a spectrum that a bracket mixes at most, else its form is not considered.
constexpr size_t kMostMixed = 4;

// Orbits of outputs that are multiplied together, in registers.
struct Chunk {
  int64_t begin = 0;
  int64_t orbits = 0;
  int64_t offset = 0;  // into the coefficients
  // Its outputs in ascending order: each orbit has one in each run, but the middle output of an odd axis is its own
  // mirror.
  struct Run {
    int64_t begin = 0;
    int64_t count = 0;
  };
  std::vector<Run> runs;
  int64_t outputs = 0;
};

// A dense matrix from folded coordinates to outputs. With one fold an orbit is an output and its mirror: the sum of an
// even and an odd product, and their difference. With two it is four outputs, of two odd products and two even ones.
// The coefficients of a chunk are [class][coordinate][product of the chunk].
template <class T>
struct Expansion {
  int64_t out = 0;
  int64_t folds = 0;
  int64_t lengths[kMostFolds + 1] = {};  // coordinates of each class
  std::vector<Chunk> chunks;
  std::vector<T> coefficients;
  int64_t in() const { return lengths[0] + lengths[1] + lengths[2]; }
  int64_t orbits() const { return (out + (int64_t{1} << folds) - 1) >> folds; }
  int64_t multiply_adds() const { return static_cast<int64_t>(coefficients.size()); }
};

// A block diagonal matrix, block by block. Each maps coordinates from `in` on to coordinates from `out` on.
template <class T>
struct Block {
  int64_t in = 0;
  int64_t out = 0;
  Expansion<T> matrix;  // without folds
};
template <class T>
using Transform = std::vector<Block<T>>;

// A matrix with few entries in a row: `count` for each row, some of them zero.
template <class T>
struct Taps {
  int64_t count = 0;
  std::vector<int32_t> index;  // [row][count]
  std::vector<T> coefficient;
};

// A run of columns of the map, and the slots that an h factor's product with them fills.
struct Columns {
  int64_t from = 0;
  int64_t to = 0;
  int64_t count = 0;
  int64_t factor = 0;  // of Plan::h
};

// The forms of a step. With x the coarse map and a subscript for the axis, the prior is
//   dense      one matrix, as one row of its tokens
//   separable  U x U^T + B x B^T - G x G^T
//   rank       B x B^T + Q^T (QU x) U^T + G (x (QU)^T) Q, where U - G = Q^T QU and Q holds the frequencies that B and G
//              lack
//   spectrum   P^T (X - S X S^T) P + U x U^T, where X is the spectrum of x and S = P U C^T, which has few entries in a
//              row where the sizes have a simple ratio
enum class Structure : int8_t { dense, separable, rank, spectrum };

// Every form is a sum of two parts. The first is A_h X A_w^T with dense factors: `h` turns columns of the map into the
// slots of a row, and `w` turns the slots into the row. The second is V_h (Y V_w^T) with banded factors. X and Y are the
// coarse map, or what transforms along its axes make of it.
template <class T>
struct Plan {
  PlanKey key;
  Structure structure = Structure::separable;
  bool swapped = false;  // the plan's h is the grid's w
  int64_t in_h = 0;
  int64_t in_w = 0;
  int64_t out_h = 0;
  int64_t out_w = 0;

  // The map. Loading folds pairs of rows and of columns; the sums of columns end at the end of the row.
  int64_t row = 0;  // columns, also those that `lift_w` appends
  int64_t pairs_h = 0;
  int64_t pairs_w = 0;

  // The banded part: V_h's rows take `h_taps` of the rows that `w_taps` makes of the map's rows, or of their lift.
  Transform<T> lift_h;
  int64_t lifted = 0;  // rows of the lift, 0 for none
  Taps<T> w_taps;      // of entries that are not folded
  Taps<T> h_taps;

  // The spectrum, in place of the map: folded and transformed along h, then along w. `groups` are rows that the bracket
  // X - S X S^T mixes.
  int64_t folds_h = 0;
  int64_t folds_w = 0;
  Transform<T> spectrum_h;
  Transform<T> spectrum_w;
  std::vector<std::vector<int32_t>> groups;
  Taps<T> bracket_h;  // their index counts within a row's group
  Taps<T> bracket_w;

  Transform<T> lift_w;  // appends columns to the map

  // The dense part. Without an h factor the slots of a row are the map's row itself.
  std::vector<Columns> columns;
  std::vector<Expansion<T>> h;
  Expansion<T> w;
  bool is_dense() const { return w.out > 0; }
  bool has_addend() const { return h_taps.count > 0; }
  // Rows of the addend that h_taps chooses from.
  int64_t addend_rows() const { return !has_addend() ? 0 : lifted > 0 ? lifted : in_h; }
  // Groups of output rows that are computed together, and the most rows of one.
  int64_t row_groups() const { return h.empty() ? out_h : static_cast<int64_t>(h[0].chunks.size()); }
  int64_t group_rows() const;

  int64_t multiply_adds = 0;  // per vocabulary column
  std::string describe() const;
};

// Throws std::invalid_argument for a key without meaning.
template <class T>
Plan<T> make_plan(const PlanKey& key);

// The plan of a key, built once and shared. Thread-safe.
template <class T>
std::shared_ptr<const Plan<T>> cached_plan(const PlanKey& key);

}  // namespace ssg::cpu
