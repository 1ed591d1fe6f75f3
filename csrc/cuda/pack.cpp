#include "pack.h"

#include <utility>

#include "model.h"

namespace ssg::cuda {
namespace {

// The rows of a product's coefficients over the even k or over the odd ones.
using Half = std::vector<std::vector<double>>;

struct Rows {
  Half even;
  Half odd;
  void append(const PairRow& row) {
    even.push_back(row.even);
    odd.push_back(row.odd);
  }
  int64_t count() const { return static_cast<int64_t>(even.size()); }
};

int64_t length(const Half& half) { return half.empty() ? 0 : static_cast<int64_t>(half[0].size()); }

// A coefficient, or 0 past the end.
double at(const Half& half, int64_t row, int64_t k) {
  const auto rows = static_cast<int64_t>(half.size());
  return row < rows && k < length(half) ? half[static_cast<size_t>(row)][static_cast<size_t>(k)] : 0.0;
}

template <class T>
void append(std::vector<T>& values, const Rows& rows, Coefficients& layout) {
  const size_t begin = values.size();
  layout.rows = static_cast<int32_t>(ceil_div(rows.count(), kFmaRows) * kFmaRows);
  for (const Half* half : {&rows.even, &rows.odd})
    for (int64_t k = 0; k < length(*half); ++k)
      for (int64_t row = 0; row < layout.rows; ++row) values.push_back(static_cast<T>(at(*half, row, k)));
  layout.group = static_cast<int32_t>(values.size() - begin);
}

// The first contraction's rows for the group of row pairs from `first` on, padded with zeros to `pairs` pairs.
Rows rows_of_h(const Step& step, int64_t first, int64_t pairs) {
  const PairRow zeros{std::vector<double>(step.h.in_even()), std::vector<double>(step.h.in_odd())};
  Rows rows;
  for (int64_t pair = first; pair < first + pairs; ++pair)
    for (const Term& term : step.terms) rows.append(pair < step.h.pairs() ? pair_row(term.h, step.h, pair) : zeros);
  return rows;
}

// The second contraction's rows: those of all terms one after the other.
Rows rows_of_w(const Step& step) {
  Rows rows;
  for (int64_t pair = 0; pair < step.w.pairs(); ++pair) {
    PairRow whole;
    for (const Term& term : step.terms) {
      const PairRow row = pair_row(term.w, step.w, pair);
      whole.even.insert(whole.even.end(), row.even.begin(), row.even.end());
      whole.odd.insert(whole.odd.end(), row.odd.begin(), row.odd.end());
    }
    rows.append(whole);
  }
  return rows;
}

template <class T>
void append_direct(std::vector<T>& values, const Matrix& factor) {
  for (int64_t r = 0; r < factor.rows; ++r)
    for (int64_t c = 0; c < factor.cols; ++c) values.push_back(static_cast<T>(factor(r, c)));
}

template <class T>
Packed<T> pack_direct(const Step& step) {
  Packed<T> packed;
  for (const Term& term : step.terms) append_direct(packed.values, term.h);
  packed.w_at = static_cast<int64_t>(packed.values.size());
  for (const Term& term : step.terms) append_direct(packed.values, term.w);
  return packed;
}

}  // namespace

template <class T>
Packed<T> pack(const Step& step, const LaunchPlan& plan) {
  if (plan.is_direct()) return pack_direct<T>(step);
  if constexpr (sizeof(T) == 4)
    if (plan.tile.engine == Engine::mma) return pack_tensor(step, plan);
  Packed<T> packed;
  if (!step.one_row)
    for (int64_t first = 0; first < step.h.pairs(); first += plan.group_pairs)
      append(packed.values, rows_of_h(step, first, plan.group_pairs), packed.h);
  packed.w_at = static_cast<int64_t>(packed.values.size());
  append(packed.values, rows_of_w(step), packed.w);
  return packed;
}

template Packed<float> pack<float>(const Step&, const LaunchPlan&);
template Packed<double> pack<double>(const Step&, const LaunchPlan&);

}  // namespace ssg::cuda
