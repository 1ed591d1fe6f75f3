#include <algorithm>
#include <cmath>
#include <utility>

#include "form.h"
#include "pack.h"

namespace ssg::cpu {
namespace {

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

}  // namespace

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

}  // namespace ssg::cpu
