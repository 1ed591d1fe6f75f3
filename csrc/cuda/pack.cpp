#include "pack.h"

#include <cstring>
#include <utility>

#include "dense_step.h"
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

// Calls f(i, j, class) with each coarse token of the upper left quarter: those with all mirrors, then those on the middle
// row, on the middle column, and on both.
template <class F>
void each_coarse(const Axis& h, const Axis& w, F&& f) {
  for (const bool middle_w : {false, true})
    for (const bool middle_h : {false, true})
      for (int64_t i = middle_h ? h.in_odd() : 0; i < (middle_h ? h.in_even() : h.in_odd()); ++i)
        for (int64_t j = middle_w ? w.in_odd() : 0; j < (middle_w ? w.in_even() : w.in_odd()); ++j)
          f(i, j, middle_h, middle_w);
}

// Of an output token, in the order of k: for each coarse token its parities.
std::vector<double> products_of(const DenseStep& dense, const DenseStep::Output& output) {
  std::vector<PairRow> h;
  std::vector<PairRow> w;
  for (const Term& term : dense.step.terms) {
    h.push_back(pair_row(term.h, dense.step.h, output.row));
    w.push_back(pair_row(term.w, dense.step.w, output.column));
  }
  std::vector<double> products;
  each_coarse(dense.step.h, dense.step.w, [&](int64_t i, int64_t j, bool middle_h, bool middle_w) {
    for (const bool odd_h : {false, true})
      for (const bool odd_w : {false, true}) {
        if ((odd_h && middle_h) || (odd_w && middle_w)) continue;
        double sum = 0.0;
        for (size_t term = 0; term < h.size(); ++term)
          sum += (odd_h ? h[term].odd : h[term].even)[i] * (odd_w ? w[term].odd : w[term].even)[j];
        products.push_back(sum);
      }
  });
  return products;
}

// A token and its mirrors along w, along h and along both; -1 for one that it has not.
void append_mirrors(std::vector<int32_t>& tokens, int64_t row, int64_t mirror_row, int64_t column,
                    int64_t mirror_column, int64_t row_length) {
  for (const bool down : {false, true})
    for (const bool right : {false, true}) {
      const bool exists = (!down || row != mirror_row) && (!right || column != mirror_column);
      const int64_t token = (down ? mirror_row : row) * row_length + (right ? mirror_column : column);
      tokens.push_back(exists ? static_cast<int32_t>(token) : -1);
    }
}

template <class T>
Packed<T> pack_dense(const Step& step) {
  const DenseStep dense = dense_step(step, sizeof(T) == 8 ? Scalar::float64 : Scalar::float32).value();
  const Axis& h = dense.step.h;
  const Axis& w = dense.step.w;
  const int64_t inputs = h.in * w.in;
  Packed<T> packed;
  packed.values.resize(static_cast<size_t>(dense.items * inputs * dense.at_once));
  std::vector<int32_t> tokens;
  each_coarse(h, w, [&](int64_t i, int64_t j, bool middle_h, bool middle_w) {
    append_mirrors(tokens, i, middle_h ? i : h.in - 1 - i, j, middle_w ? j : w.in - 1 - j, w.in);
  });
  packed.coarse_at = static_cast<int64_t>(packed.values.size());
  packed.tokens_at = packed.coarse_at + static_cast<int64_t>(tokens.size() * sizeof(int32_t) / sizeof(T));
  for (size_t n = 0; n < dense.outputs.size(); ++n) {
    const auto [row, column] = dense.outputs[n];
    append_mirrors(tokens, row, h.mirror(row), column, w.mirror(column), w.out);
    const std::vector<double> products = products_of(dense, dense.outputs[n]);
    const auto at_once = static_cast<size_t>(dense.at_once);
    T* to = packed.values.data() + n / at_once * products.size() * at_once + n % at_once;
    for (size_t k = 0; k < products.size(); ++k) to[k * at_once] = static_cast<T>(products[k]);
  }
  // The last item's that there are not.
  const auto lacking = static_cast<size_t>(dense.items * dense.at_once) - dense.outputs.size();
  tokens.insert(tokens.end(), 4 * lacking, -1);
  packed.values.resize(packed.values.size() + tokens.size() * sizeof(int32_t) / sizeof(T));
  std::memcpy(packed.values.data() + packed.coarse_at, tokens.data(), tokens.size() * sizeof(int32_t));
  return packed;
}

}  // namespace

template <class T>
Packed<T> pack(const Step& step, const LaunchPlan& plan) {
  if (plan.is_direct()) return pack_direct<T>(step);
  if (plan.tile.engine == Engine::dense) return pack_dense<T>(step);
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
