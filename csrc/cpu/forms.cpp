#include "forms.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <utility>

namespace ssg::cpu {
namespace {

// ---- parts ----------------------------------------------------------------------------------------------------------

// The lengths of the classes of `n` coordinates after `folds`.
void set_lengths(int64_t (&lengths)[kMostFolds + 1], int64_t n, int64_t folds) {
  std::fill(lengths, lengths + kMostFolds + 1, 0);
  for (int64_t fold = 0; fold < folds; ++fold) {
    lengths[fold] = n / 2;
    n -= n / 2;
  }
  lengths[folds] = n;
}

void set_runs(Chunk& chunk, int64_t out, int64_t folds) {
  const int64_t count = chunk.orbits;
  const int64_t end = chunk.begin + count;
  chunk.runs = {{chunk.begin, count}};
  if (folds == 2) {
    chunk.runs.push_back({out / 2 - end, count});
    chunk.runs.push_back({out / 2 + chunk.begin, count});
  }
  if (folds > 0) chunk.runs.push_back({std::max(out - end, end), std::min(count, out - chunk.begin - end)});
  for (const Chunk::Run& run : chunk.runs) chunk.outputs += run.count;
}

// Packs a matrix of all outputs, or of those that come first in their orbits, whose columns are coordinates in order.
Expansion<double> expansion_of(const Matrix& m, int64_t out, int64_t folds, const int64_t (&lengths)[kMostFolds + 1],
                               int64_t accumulators) {
  Expansion<double> packed;
  packed.out = out;
  packed.folds = folds;
  std::copy(lengths, lengths + kMostFolds + 1, packed.lengths);
  constexpr int64_t kMostProducts = 6;
  const int64_t most = std::max<int64_t>(1, std::min(kMostProducts, accumulators >> folds));
  const int64_t orbits = packed.orbits();
  const int64_t count = (orbits + most - 1) / most;
  for (int64_t c = 0; c < count; ++c) {
    Chunk chunk;
    chunk.begin = c * orbits / count;
    chunk.orbits = (c + 1) * orbits / count - chunk.begin;
    chunk.offset = packed.multiply_adds();
    int64_t column = 0;
    for (int64_t k = 0; k <= folds; ++k) {
      const int64_t products = k < folds ? chunk.orbits << (folds - 1 - k) : chunk.orbits;
      for (const int64_t end = column + lengths[k]; column < end; ++column)
        for (int64_t p = 0; p < products; ++p) {
          const int64_t orbit = chunk.begin + p % chunk.orbits;
          packed.coefficients.push_back(m(p < chunk.orbits ? orbit : out / 2 - 1 - orbit, column));
        }
    }
    set_runs(chunk, out, folds);
    packed.chunks.push_back(std::move(chunk));
  }
  return packed;
}

Block<double> block_of(const Matrix& m, int64_t in, int64_t out) {
  int64_t lengths[kMostFolds + 1];
  set_lengths(lengths, m.cols, 0);
  constexpr int64_t kAccumulators = 6;
  return {in, out, expansion_of(m, m.rows, 0, lengths, kAccumulators)};
}

Taps<double> taps_of(const Matrix& m) {
  Taps<double> taps;
  for (int64_t r = 0; r < m.rows; ++r) {
    const double* row = m.row(r);
    const int64_t length = m.runs[r].end - m.runs[r].begin;
    taps.count = std::max<int64_t>(taps.count, length - std::count(row, row + length, 0.0));
  }
  for (int64_t r = 0; r < m.rows; ++r) {
    int64_t written = 0;
    const auto append = [&](int64_t column, double value) {
      taps.index.push_back(static_cast<int32_t>(column));
      taps.coefficient.push_back(value);
      ++written;
    };
    for (int64_t c = m.runs[r].begin; c < m.runs[r].end; ++c)
      if (m(r, c) != 0.0) append(c, m(r, c));
    while (written < taps.count) append(0, 0.0);
  }
  return taps;
}

// ---- one axis -------------------------------------------------------------------------------------------------------

// One axis of a step's operator. Where it is symmetric, it is folded once.
struct Side {
  int64_t in = 0;
  int64_t out = 0;
  bool symmetric = false;
  int64_t odd() const { return symmetric ? in / 2 : 0; }
  int64_t even() const { return in - odd(); }
  int64_t folds() const { return symmetric ? 1 : 0; }
};

// A factor whose columns are folded coordinates: those of the odd class, then those of the even one.
Matrix folded(const Matrix& factor, const Side& side) {
  if (!side.symmetric) return factor;
  Matrix m(factor.rows, factor.cols);
  for (int64_t r = 0; r < factor.rows; ++r) {
    double* row = m.row(r);
    const bool is_middle = 2 * r + 1 == factor.rows;  // its odd part is rounding noise
    for (int64_t c = factor.runs[r].begin; c < factor.runs[r].end; ++c) {
      const double value = factor(r, c);
      const int64_t mirror = side.in - 1 - c;
      if (c == mirror) {
        row[c] = value;
      } else {
        row[std::max(c, mirror)] += 0.5 * value;
        if (!is_middle) row[std::min(c, mirror)] += c < mirror ? 0.5 * value : -0.5 * value;
      }
    }
  }
  return m;
}

// The columns of `m` from `begin` on, from `rows` of its rows.
Matrix part_of(const Matrix& m, int64_t first_row, int64_t rows, int64_t begin, int64_t cols) {
  Matrix part(rows, cols);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < cols; ++c) part.row(r)[c] = m(first_row + r, begin + c);
  return part;
}

// Rows of one parity each, `odd` of them odd, as blocks over folded coordinates: on coordinates of their own parity they
// have the entries that they have on the first half of the axis.
Transform<double> lift_of(const Matrix& rows, int64_t odd, const Side& side, int64_t gap, int64_t out) {
  if (!side.symmetric) return {block_of(rows, 0, out)};
  Transform<double> blocks;
  if (odd > 0 && side.odd() > 0) blocks.push_back(block_of(part_of(rows, 0, odd, 0, side.odd()), 0, out));
  const int64_t even = rows.rows - odd;
  if (even > 0)
    blocks.push_back(block_of(part_of(rows, odd, even, side.odd(), side.even()), side.odd() + gap, out + odd));
  return blocks;
}

// Cosines of an orthonormal DCT-II.
class Cosines {
 public:
  explicit Cosines(int64_t size) : size_(size) {
    for (int64_t j = 0; j < 4 * size; ++j) table_.push_back(cos_pi(j, 2 * size));
  }
  double operator()(int64_t frequency, int64_t at) const {
    const double scale = std::sqrt((frequency == 0 ? 1.0 : 2.0) / static_cast<double>(size_));
    return scale * table_[static_cast<size_t>(frequency * (2 * at + 1) % (4 * size_))];
  }
  // A row for each frequency.
  Matrix rows(const std::vector<int64_t>& frequencies) const {
    Matrix m(static_cast<int64_t>(frequencies.size()), size_);
    for (int64_t k = 0; k < m.rows; ++k)
      for (int64_t r = 0; r < size_; ++r) m.row(k)[r] = (*this)(frequencies[static_cast<size_t>(k)], r);
    return m;
  }

 private:
  int64_t size_;
  std::vector<double> table_;
};

// a b, where the rows of b have short runs or a is small.
Matrix product(const Matrix& a, const Matrix& b) {
  Matrix m(a.rows, b.cols);
  for (int64_t r = 0; r < a.rows; ++r) {
    double* row = m.row(r);
    for (int64_t i = a.runs[r].begin; i < a.runs[r].end; ++i) {
      const double value = a(r, i);
      const double* from = b.row(i);
      for (int64_t c = b.runs[i].begin; c < b.runs[i].end; ++c) row[c] += value * from[c - b.runs[i].begin];
    }
  }
  return m;
}

// The frequencies from `begin` to `end`: the odd ones, then the odd multiples of 2, then the multiples of 4.
std::vector<int64_t> by_class(int64_t begin, int64_t end) {
  std::vector<int64_t> frequencies(static_cast<size_t>(end - begin));
  std::iota(frequencies.begin(), frequencies.end(), begin);
  const auto rank = [](int64_t k) { return k % 2 != 0 ? 0 : k % 4 != 0 ? 1 : 2; };
  std::stable_sort(frequencies.begin(), frequencies.end(), [&](int64_t a, int64_t b) { return rank(a) < rank(b); });
  return frequencies;
}

int64_t odd_ones(const std::vector<int64_t>& frequencies) {
  return std::count_if(frequencies.begin(), frequencies.end(), [](int64_t k) { return k % 2 != 0; });
}

// ---- forms ----------------------------------------------------------------------------------------------------------

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
void set_dense(Plan<double>& plan, const std::vector<Piece>& pieces, const Side& h, const Side& w) {
  int64_t lengths[kMostFolds + 1] = {};
  int64_t slots = 0;
  for (const Piece& piece : pieces) {
    slots += piece.w.cols;
    if (w.symmetric) lengths[0] += piece.odd;
  }
  lengths[w.folds()] = slots - (w.symmetric ? lengths[0] : 0);
  Matrix all(w.out, slots);
  int64_t slot = 0;
  const auto take = [&](size_t p, int64_t begin, int64_t count, int64_t from) {
    if (count == 0) return;
    for (int64_t r = 0; r < w.out; ++r)
      for (int64_t c = 0; c < count; ++c) all.row(r)[slot + c] = pieces[p].w(r, begin + c);
    Columns* last = plan.columns.empty() ? nullptr : &plan.columns.back();
    const auto factor = static_cast<int64_t>(p);
    if (last != nullptr && last->factor == factor && last->from + last->count == from)
      last->count += count;
    else
      plan.columns.push_back({from, slot, count, factor});
    slot += count;
  };
  for (size_t p = 0; p < pieces.size(); ++p) take(p, 0, pieces[p].odd, pieces[p].from_odd);
  for (size_t p = pieces.size(); p-- > 0;)
    take(p, pieces[p].odd, pieces[p].w.cols - pieces[p].odd, pieces[p].from_even);
  plan.w = expansion_of(all, w.out, w.folds(), lengths, plan.key.accumulators);

  set_lengths(lengths, h.in, h.folds());
  for (const Piece& piece : pieces)
    plan.h.push_back(expansion_of(piece.h, h.out, h.folds(), lengths, plan.key.accumulators));
}

Plan<double> plan_of(const PlanKey& key, Structure structure, const Side& h, const Side& w) {
  Plan<double> plan;
  plan.key = key;
  plan.structure = structure;
  plan.in_h = h.in;
  plan.in_w = w.in;
  plan.out_h = h.out;
  plan.out_w = w.out;
  plan.row = w.in;
  return plan;
}

int64_t multiply_adds(const Transform<double>& transform) {
  int64_t sum = 0;
  for (const Block<double>& block : transform) sum += block.matrix.multiply_adds();
  return sum;
}

Plan<double> counted(Plan<double> plan) {
  int64_t& sum = plan.multiply_adds;
  sum += multiply_adds(plan.lift_h) * plan.in_w + multiply_adds(plan.lift_w) * plan.in_h;
  sum += plan.addend_rows() * plan.out_w * plan.w_taps.count + plan.out_h * plan.out_w * plan.h_taps.count;
  int64_t spectrum_rows = 0;
  for (const auto& group : plan.groups) spectrum_rows += static_cast<int64_t>(group.size());
  sum += multiply_adds(plan.spectrum_h) * plan.in_w + multiply_adds(plan.spectrum_w) * spectrum_rows;
  if (spectrum_rows > 0) sum += spectrum_rows * plan.w.in() * (plan.bracket_h.count + plan.bracket_w.count);
  for (const Columns& columns : plan.columns)
    sum += plan.h[static_cast<size_t>(columns.factor)].multiply_adds() * columns.count;
  sum += plan.out_h * plan.w.multiply_adds();
  return plan;
}

// Products of a chunk with one vector, which the kernel begins anew for each.
int64_t tiles(const Transform<double>& transform) {
  int64_t sum = 0;
  for (const Block<double>& block : transform) sum += static_cast<int64_t>(block.matrix.chunks.size());
  return sum;
}

// In multiply-adds. A slot that passes through memory costs about one, and beginning a tile as many as kTile.
int64_t cost_of(const Plan<double>& plan) {
  constexpr int64_t kTile = 16;
  int64_t begun = plan.out_h * static_cast<int64_t>(plan.w.chunks.size());
  begun += tiles(plan.lift_h) * plan.in_w + tiles(plan.lift_w) * plan.in_h;
  begun += tiles(plan.spectrum_h) * plan.in_w + tiles(plan.spectrum_w) * plan.w.in();
  for (const Columns& columns : plan.columns)
    begun += static_cast<int64_t>(plan.h[static_cast<size_t>(columns.factor)].chunks.size()) * columns.count;
  return plan.multiply_adds + kTile * begun + (plan.h.empty() ? 0 : plan.out_h * plan.w.in());
}

Side side_of(const std::vector<Term>& terms, Matrix Term::* factor) {
  const Matrix& first = terms[0].*factor;
  const bool symmetric =
      std::all_of(terms.begin(), terms.end(), [factor](const Term& term) { return is_symmetric(term.*factor); });
  return {first.cols, first.rows, symmetric};
}

// The terms as they are. One whose factors are banded becomes the banded part.
Plan<double> separable_form(const PlanKey& key, Structure structure, const std::vector<Term>& terms) {
  Side h = side_of(terms, &Term::h);
  Side w = side_of(terms, &Term::w);
  Plan<double> plan = plan_of(key, structure, h, w);
  std::vector<const Term*> dense;
  for (const Term& term : terms) {
    const Taps<double> h_taps = taps_of(term.h);
    const Taps<double> w_taps = taps_of(term.w);
    const int64_t banded = h.in * w.out * w_taps.count + h.out * w.out * h_taps.count;
    const int64_t full = (h.out * h.in / (1 + h.folds()) + h.out) * w.in + h.out * w.out * w.in / (1 + w.folds());
    if (!plan.has_addend() && banded <= full) {
      plan.h_taps = h_taps;
      plan.w_taps = w_taps;
    } else {
      dense.push_back(&term);
    }
  }
  if (dense.empty()) return counted(std::move(plan));
  plan.pairs_w = w.odd();
  // The slots of a row are the map's row where the only h factor is an identity.
  const bool is_row = dense.size() == 1 && equal(dense[0]->h, identity(h.in));
  if (!is_row) plan.pairs_h = h.odd();
  std::vector<Piece> pieces;
  for (const Term* term : dense) pieces.push_back({folded(term->h, h), folded(term->w, w), w.odd(), 0, w.odd()});
  set_dense(plan, pieces, h, w);
  if (is_row) {
    plan.columns.clear();
    plan.h.clear();
  }
  return counted(std::move(plan));
}

// The factors of one axis.
struct Factors : Side {
  Matrix u;
  Matrix b;
  Matrix g;
  bool transposed = false;
  double gain = 1.0;  // of B
  int64_t coarse() const { return std::min(in, out); }
  int64_t fine() const { return std::max(in, out); }
};

Factors factors_of(int64_t from, int64_t to, const StepKey& key) {
  AxisFactors factors = axis_factors(from, to, key.interpolation, key.rescale);
  Factors axis;
  axis.symmetric = is_symmetric(factors.interpolated);
  axis.in = key.transposed ? to : from;
  axis.out = key.transposed ? from : to;
  axis.transposed = key.transposed;
  axis.gain = key.rescale ? std::sqrt(static_cast<double>(to) / static_cast<double>(from)) : 1.0;
  const auto turned = [&](Matrix m) { return key.transposed ? transpose(m) : m; };
  axis.u = turned(std::move(factors.interpolated));
  axis.b = turned(std::move(factors.spliced));
  axis.g = turned(std::move(factors.low_band));
  return axis;
}

// U - G = `back` `lift`, of rank N - n. The rows of `lift` and the columns of `back` are odd ones, then even ones.
struct HighBand {
  Matrix back;
  Matrix lift;
  int64_t odd = 0;
};

HighBand high_band(const Factors& axis) {
  const std::vector<int64_t> frequencies = by_class(axis.coarse(), axis.fine());
  const Matrix q = Cosines(axis.fine()).rows(frequencies);
  const Matrix qu = product(q, axis.transposed ? transpose(axis.u) : axis.u);
  HighBand band;
  band.odd = odd_ones(frequencies);
  band.back = transpose(axis.transposed ? qu : q);
  band.lift = axis.transposed ? q : qu;
  if (axis.symmetric && axis.out % 2 != 0)  // an odd frequency is zero in the middle
    std::fill_n(band.back.row(axis.out / 2), band.odd, 0.0);
  return band;
}

Plan<double> rank_form(const PlanKey& key, const Factors& h, const Factors& w) {
  Plan<double> plan = plan_of(key, Structure::rank, h, w);
  const HighBand high_h = high_band(h);
  const HighBand high_w = high_band(w);
  const int64_t appended = high_w.lift.rows;
  plan.row = w.in + appended;
  plan.pairs_h = h.odd();
  plan.pairs_w = w.odd();
  const int64_t gap_at = w.symmetric ? w.odd() : w.in;

  plan.lift_h = lift_of(high_h.lift, high_h.odd, h, 0, 0);
  plan.lifted = high_h.lift.rows;
  plan.h_taps = taps_of(high_h.back);
  plan.w_taps = taps_of(w.u);
  if (w.symmetric)  // undoing a fold doubles an entry that has a mirror
    for (size_t i = 0; i < plan.w_taps.index.size(); ++i)
      if (2 * plan.w_taps.index[i] + 1 != w.in) plan.w_taps.coefficient[i] *= 0.5;

  plan.lift_w = lift_of(high_w.lift, high_w.odd, w, appended, gap_at);
  const int64_t odd = w.symmetric ? high_w.odd : 0;
  std::vector<Piece> pieces;
  pieces.push_back({folded(h.b, h), folded(w.b, w), w.odd(), 0, w.symmetric ? gap_at + appended : 0});
  pieces.push_back({folded(h.g, h), high_w.back, odd, gap_at, gap_at + odd});
  set_dense(plan, pieces, h, w);
  return counted(std::move(plan));
}

// One axis of the spectral form. The prior is gain^2 P^T (X - S X S^T) P + U x U^T with S divided by the gain.
struct Spectral {
  int64_t folds_in = 0;
  int64_t folds_out = 0;
  int64_t lengths[kMostFolds + 1] = {};  // frequencies of each class of `folds_out`
  Transform<double> transform;
  Matrix back;
  Matrix bracket;
};

// The coordinates of an axis that is folded `folds` times come in this order of entries.
std::vector<int64_t> entries_of(int64_t n, int64_t folds) {
  std::vector<int64_t> entries;
  int64_t length = n;
  for (int64_t fold = 0; fold < folds; ++fold) {
    for (int64_t t = 0; t < length / 2; ++t) entries.push_back(t);
    length -= length / 2;
  }
  for (int64_t t = length; t-- > 0;) entries.push_back(t);
  return entries;
}

Spectral spectral_of(const Factors& axis) {
  const auto folds = [](int64_t n) { return n % 4 == 0 ? int64_t{2} : int64_t{1}; };
  Spectral spectral;
  spectral.folds_in = folds(axis.in);
  spectral.folds_out = folds(axis.out);
  const int64_t n = axis.coarse();
  const std::vector<int64_t> frequencies = by_class(0, n);
  const auto until = [&](int64_t divisor) {  // frequencies before the multiples of the divisor
    return std::count_if(frequencies.begin(), frequencies.end(), [&](int64_t k) { return k % divisor != 0; });
  };
  const Matrix coarse = Cosines(n).rows(frequencies);
  const Matrix fine = Cosines(axis.fine()).rows(frequencies);
  const Matrix& forward = axis.transposed ? fine : coarse;
  const std::vector<int64_t> entries = entries_of(axis.in, spectral.folds_in);
  int64_t row = 0;
  int64_t column = 0;
  for (int64_t k = 0; k <= spectral.folds_in; ++k) {
    const int64_t rows = (k < spectral.folds_in ? until(int64_t{2} << k) : n) - row;
    const int64_t length = k < spectral.folds_in ? axis.in >> (k + 1) : axis.in - column;
    if (rows > 0 && length > 0) {
      Matrix m(rows, length);
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < length; ++c) m.row(r)[c] = forward(row + r, entries[static_cast<size_t>(column + c)]);
      spectral.transform.push_back(block_of(m, column, row));
    }
    row += rows;
    column += length;
  }
  spectral.back = transpose(axis.transposed ? coarse : fine);
  for (double& value : spectral.back.values) value *= axis.gain;
  const int64_t odd = until(2);
  if (axis.out % 2 != 0) std::fill_n(spectral.back.row(axis.out / 2), odd, 0.0);
  spectral.lengths[0] = odd;
  spectral.lengths[1] = spectral.folds_out == 2 ? until(4) - odd : n - odd;
  spectral.lengths[2] = n - spectral.lengths[0] - spectral.lengths[1];

  const Matrix u = axis.transposed ? transpose(axis.u) : axis.u;
  Matrix s = product(fine, product(u, transpose(coarse)));
  double largest = 0.0;
  for (double value : s.values) largest = std::max(largest, std::abs(value));
  for (double& value : s.values) value = std::abs(value) < 1e-13 * largest ? 0.0 : value / axis.gain;
  spectral.bracket = axis.transposed ? transpose(s) : std::move(s);
  return spectral;
}

// Sets of rows that `m` maps to themselves.
std::vector<std::vector<int32_t>> closed_groups(const Matrix& m) {
  std::vector<int64_t> root;
  for (int64_t r = 0; r < m.rows; ++r) root.push_back(r);
  const auto find = [&](int64_t r) {
    while (root[static_cast<size_t>(r)] != r) r = root[static_cast<size_t>(r)];
    return r;
  };
  for (int64_t r = 0; r < m.rows; ++r)
    for (int64_t c = 0; c < m.cols; ++c)
      if (m(r, c) != 0.0) root[static_cast<size_t>(find(c))] = find(r);
  std::vector<std::vector<int32_t>> groups;
  std::vector<int64_t> group;
  for (int64_t r = 0; r < m.rows; ++r) group.push_back(-1);
  for (int64_t r = 0; r < m.rows; ++r) {
    int64_t& g = group[static_cast<size_t>(find(r))];
    if (g < 0) {
      g = static_cast<int64_t>(groups.size());
      groups.emplace_back();
    }
    groups[static_cast<size_t>(g)].push_back(static_cast<int32_t>(r));
  }
  return groups;
}

std::optional<Plan<double>> spectrum_form(const PlanKey& key, const Factors& h, const Factors& w) {
  constexpr int64_t kLongest = 256;  // building it takes the cube of a size
  // What the bracket subtracts is as many times as large as the prior as the grid has grown: so many digits are lost.
  constexpr int64_t kMostGrowth = 4;
  if (!h.symmetric || !w.symmetric || h.fine() > kLongest || w.fine() > kLongest) return std::nullopt;
  if (h.fine() * w.fine() > kMostGrowth * h.coarse() * w.coarse()) return std::nullopt;
  const Spectral spectral_h = spectral_of(h);
  const Spectral spectral_w = spectral_of(w);
  Plan<double> plan = plan_of(key, Structure::spectrum, h, w);
  plan.groups = closed_groups(spectral_h.bracket);
  for (const auto& group : plan.groups)
    if (group.size() > kMostMixed) return std::nullopt;
  plan.h_taps = taps_of(h.u);
  plan.w_taps = taps_of(w.u);
  plan.folds_h = spectral_h.folds_in;
  plan.folds_w = spectral_w.folds_in;
  plan.spectrum_h = spectral_h.transform;
  plan.spectrum_w = spectral_w.transform;
  plan.bracket_h = taps_of(spectral_h.bracket);
  for (const auto& group : plan.groups)
    for (int32_t row : group)
      for (int64_t t = 0; t < plan.bracket_h.count; ++t) {
        int32_t& index = plan.bracket_h.index[static_cast<size_t>(row * plan.bracket_h.count + t)];
        const auto found = std::find(group.begin(), group.end(), index);
        index = found == group.end() ? 0 : static_cast<int32_t>(found - group.begin());
      }
  plan.bracket_w = taps_of(negated(spectral_w.bracket));
  plan.columns = {{0, 0, w.coarse(), 0}};
  plan.h = {expansion_of(spectral_h.back, h.out, spectral_h.folds_out, spectral_h.lengths, key.accumulators)};
  plan.w = expansion_of(spectral_w.back, w.out, spectral_w.folds_out, spectral_w.lengths, key.accumulators);
  return counted(std::move(plan));
}

}  // namespace

Plan<double> cheapest_form(const PlanKey& key) {
  const std::vector<Term> terms = terms_of(key.step);
  Plan<double> best = separable_form(key, Structure::separable, terms);
  const auto consider = [&](Plan<double> plan) {
    if (cost_of(plan) < cost_of(best)) best = std::move(plan);
  };
  if (terms.size() == 1) {
    Plan<double> turned = separable_form(key, Structure::separable, {{terms[0].w, terms[0].h}});
    turned.swapped = true;
    consider(std::move(turned));
    return best;
  }
  const Factors h = factors_of(key.step.prev_size.h, key.step.size.h, key.step);
  const Factors w = factors_of(key.step.prev_size.w, key.step.size.w, key.step);
  if (key.step.prior == Prior::dse) {
    consider(rank_form(key, h, w));
    if (auto plan = spectrum_form(key, h, w)) consider(std::move(*plan));
  }
  // Building the dense form takes as long as it has entries: only where it may win.
  if (key.step.size.tokens() * key.step.prev_size.tokens() / (h.symmetric && w.symmetric ? 2 : 1) <= cost_of(best))
    consider(separable_form(key, Structure::dense, {{identity(1), dense_operator(terms)}}));
  return best;
}

}  // namespace ssg::cpu
