#include "axis.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

namespace ssg::cpu {

Side side_of(const std::vector<Term>& terms, Matrix Term::* factor) {
  const Matrix& first = terms[0].*factor;
  const bool symmetric =
      std::all_of(terms.begin(), terms.end(), [factor](const Term& term) { return is_symmetric(term.*factor); });
  return {first.cols, first.rows, symmetric};
}

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

Cosines::Cosines(int64_t size) : size_(size) {
  for (int64_t j = 0; j < 4 * size; ++j) table_.push_back(cos_pi(j, 2 * size));
}

double Cosines::operator()(int64_t frequency, int64_t at) const {
  const double scale = std::sqrt((frequency == 0 ? 1.0 : 2.0) / static_cast<double>(size_));
  return scale * table_[static_cast<size_t>(frequency * (2 * at + 1) % (4 * size_))];
}

Matrix Cosines::rows(const std::vector<int64_t>& frequencies) const {
  Matrix m(static_cast<int64_t>(frequencies.size()), size_);
  for (int64_t k = 0; k < m.rows; ++k)
    for (int64_t r = 0; r < size_; ++r) m.row(k)[r] = (*this)(frequencies[static_cast<size_t>(k)], r);
  return m;
}

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

}  // namespace ssg::cpu
