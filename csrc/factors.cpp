#include "factors.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace ssg {

Matrix identity(int64_t n) {
  Matrix m(n, n);
  for (int64_t i = 0; i < n; ++i) m(i, i) = 1.0;
  return m;
}

Matrix transpose(const Matrix& m) {
  Matrix t(m.cols, m.rows);
  for (int64_t r = 0; r < m.rows; ++r)
    for (int64_t c = 0; c < m.cols; ++c) t(c, r) = m(r, c);
  return t;
}

Matrix multiply(const Matrix& a, const Matrix& b) {
  Matrix m(a.rows, b.cols);
  for (int64_t r = 0; r < a.rows; ++r)
    for (int64_t k = 0; k < a.cols; ++k)
      for (int64_t c = 0; c < b.cols; ++c) m(r, c) += a(r, k) * b(k, c);
  return m;
}

Matrix kronecker(const Matrix& a, const Matrix& b) {
  Matrix m(a.rows * b.rows, a.cols * b.cols);
  for (int64_t ar = 0; ar < a.rows; ++ar)
    for (int64_t br = 0; br < b.rows; ++br)
      for (int64_t ac = 0; ac < a.cols; ++ac)
        for (int64_t bc = 0; bc < b.cols; ++bc) m(ar * b.rows + br, ac * b.cols + bc) = a(ar, ac) * b(br, bc);
  return m;
}

Matrix dct_matrix(int64_t n) {
  const double pi = 3.14159265358979323846;
  Matrix m(n, n);
  for (int64_t k = 0; k < n; ++k) {
    const double scale = std::sqrt((k == 0 ? 1.0 : 2.0) / static_cast<double>(n));
    for (int64_t i = 0; i < n; ++i) {
      const int64_t phase = ((2 * i + 1) * k) % (4 * n);  // reduced exactly, so that cos keeps all its digits
      m(k, i) = scale * std::cos(pi * static_cast<double>(phase) / static_cast<double>(2 * n));
    }
  }
  return m;
}

namespace {

// The cubic convolution kernel (Keys, A = -0.75) at the distances 1 + t, t, 1 - t and 2 - t.
void cubic_weights(double t, double weights[4]) {
  const double a = -0.75;
  const auto near = [a](double x) { return ((a + 2) * x - (a + 3)) * x * x + 1; };
  const auto far = [a](double x) { return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a; };
  weights[0] = far(t + 1);
  weights[1] = near(t);
  weights[2] = near(1 - t);
  weights[3] = far(2 - t);
}

}  // namespace

Matrix interpolation_matrix(int64_t from, int64_t to, Interpolation interpolation) {
  Matrix m(to, from);
  const double scale = static_cast<double>(from) / static_cast<double>(to);
  for (int64_t r = 0; r < to; ++r) {
    switch (interpolation) {
      case Interpolation::nearest: m(r, r * from / to) = 1.0; break;
      case Interpolation::bilinear: {
        const double source = std::max(scale * (static_cast<double>(r) + 0.5) - 0.5, 0.0);
        const int64_t low = std::min(static_cast<int64_t>(source), from - 1);
        const double weight = source - static_cast<double>(low);
        m(r, low) += 1.0 - weight;
        m(r, std::min(low + 1, from - 1)) += weight;
        break;
      }
      case Interpolation::bicubic: {
        const double source = scale * (static_cast<double>(r) + 0.5) - 0.5;
        const double low = std::floor(source);
        double weights[4];
        cubic_weights(source - low, weights);
        for (int64_t tap = 0; tap < 4; ++tap) {
          const int64_t i = static_cast<int64_t>(low) - 1 + tap;
          m(r, std::clamp<int64_t>(i, 0, from - 1)) += weights[tap];
        }
        break;
      }
      case Interpolation::area: {
        const int64_t begin = r * from / to;
        const int64_t end = ((r + 1) * from + to - 1) / to;
        for (int64_t i = begin; i < end; ++i) m(r, i) = 1.0 / static_cast<double>(end - begin);
        break;
      }
    }
  }
  return m;
}

AxisFactors axis_factors(int64_t from, int64_t to, Interpolation interpolation, bool rescale) {
  // Exactly the identity, so that equal sizes return the previous logits themselves.
  if (from == to) return {identity(from), identity(from), identity(from)};
  AxisFactors factors;
  factors.interpolated = interpolation_matrix(from, to, interpolation);
  Matrix low(from, to);  // P: the first rows of the fine transform
  const Matrix fine = dct_matrix(to);
  std::copy(fine.values.begin(), fine.values.begin() + from * to, low.values.begin());
  const Matrix low_t = transpose(low);
  factors.spliced = multiply(low_t, dct_matrix(from));
  if (rescale)
    for (double& value : factors.spliced.values)
      value *= std::sqrt(static_cast<double>(to) / static_cast<double>(from));
  factors.low_band = multiply(low_t, multiply(low, factors.interpolated));
  return factors;
}

namespace {

Matrix sum(const Matrix& a, const Matrix& b) {
  Matrix m = a;
  for (size_t i = 0; i < m.values.size(); ++i) m.values[i] += b.values[i];
  return m;
}

Matrix negated(const Matrix& a) {
  Matrix m = a;
  for (double& value : m.values) value = -value;
  return m;
}

// Only h factors carry a sign, so equal w factors compare equal.
bool merge_one(std::vector<Term>& terms) {
  for (size_t a = 0; a < terms.size(); ++a)
    for (size_t b = a + 1; b < terms.size(); ++b) {
      if (terms[a].w == terms[b].w) {
        terms[a].h = sum(terms[a].h, terms[b].h);
      } else if (terms[a].h == terms[b].h) {
        terms[a].w = sum(terms[a].w, terms[b].w);
      } else if (terms[a].h == negated(terms[b].h)) {
        terms[a].w = sum(terms[a].w, negated(terms[b].w));
      } else {
        continue;
      }
      terms.erase(terms.begin() + static_cast<int64_t>(b));
      return true;
    }
  return false;
}

// One term of a prior: its factor along both axes, and its sign.
struct SignedFactor {
  Matrix AxisFactors::* factor;
  bool is_negative = false;
};

std::vector<SignedFactor> signed_factors(Prior prior) {
  const SignedFactor u{&AxisFactors::interpolated};
  const SignedFactor b{&AxisFactors::spliced};
  switch (prior) {
    case Prior::dse: return {u, b, {&AxisFactors::low_band, true}};
    case Prior::dse_zero_pad: return {b};
    case Prior::spatial: return {u};
  }
  throw std::logic_error("a prior without terms");
}

}  // namespace

std::vector<Term> prior_terms(Grid size, Grid prev_size, Prior prior, Interpolation interpolation, bool rescale,
                              bool transposed) {
  const AxisFactors h = axis_factors(prev_size.h, size.h, interpolation, rescale);
  const AxisFactors w = axis_factors(prev_size.w, size.w, interpolation, rescale);
  std::vector<Term> terms;
  for (const auto& [factor, is_negative] : signed_factors(prior))
    terms.push_back({is_negative ? negated(h.*factor) : h.*factor, w.*factor});
  while (merge_one(terms)) {
  }
  if (transposed)
    for (Term& term : terms) term = {transpose(term.h), transpose(term.w)};
  return terms;
}

Matrix dense_operator(const std::vector<Term>& terms) {
  Matrix m = kronecker(terms[0].h, terms[0].w);
  for (size_t t = 1; t < terms.size(); ++t) m = sum(m, kronecker(terms[t].h, terms[t].w));
  return m;
}

bool is_symmetric(const Matrix& m) {
  double largest = 0.0;
  for (double value : m.values) largest = std::max(largest, std::abs(value));
  const size_t n = m.values.size();
  for (size_t i = 0; i < n; ++i)
    // Reversing both axes of a row-major matrix reverses its storage.
    if (std::abs(m.values[i] - m.values[n - 1 - i]) > 1e-13 * largest) return false;
  return true;
}

}  // namespace ssg
