#include "factors.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <stdexcept>
#include <utility>

namespace ssg {

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
  Matrix m(from);
  const double scale = static_cast<double>(from) / static_cast<double>(to);
  for (int64_t r = 0; r < to; ++r) {
    switch (interpolation) {
      case Interpolation::nearest: *m.append_row(r * from / to, r * from / to + 1) = 1.0; break;
      case Interpolation::bilinear: {
        const double source = std::max(scale * (static_cast<double>(r) + 0.5) - 0.5, 0.0);
        const int64_t low = std::min(static_cast<int64_t>(source), from - 1);
        const int64_t high = std::min(low + 1, from - 1);
        const double weight = source - static_cast<double>(low);
        double* row = m.append_row(low, high + 1);
        row[0] += 1.0 - weight;
        row[high - low] += weight;
        break;
      }
      case Interpolation::bicubic: {
        const double source = scale * (static_cast<double>(r) + 0.5) - 0.5;
        const double low = std::floor(source);
        double weights[4];
        cubic_weights(source - low, weights);
        const auto clamped = [&](int64_t tap) {
          return std::clamp<int64_t>(static_cast<int64_t>(low) - 1 + tap, 0, from - 1);
        };
        double* row = m.append_row(clamped(0), clamped(3) + 1);
        for (int64_t tap = 0; tap < 4; ++tap) row[clamped(tap) - clamped(0)] += weights[tap];
        break;
      }
      case Interpolation::area: {
        const int64_t begin = r * from / to;
        const int64_t end = ((r + 1) * from + to - 1) / to;
        double* row = m.append_row(begin, end);
        std::fill(row, row + (end - begin), 1.0 / static_cast<double>(end - begin));
        break;
      }
    }
  }
  return m;
}

namespace {

// sin(pi k / n) for k of either sign. The angle is reduced exactly, so the result keeps all its digits near each zero.
double sin_pi(int64_t k, int64_t n) {
  const double pi = 3.14159265358979323846;
  double sign = k < 0 ? -1.0 : 1.0;
  k = std::abs(k) % (2 * n);
  if (k >= n) {
    k -= n;
    sign = -sign;
  }
  k = std::min(k, n - k);
  return sign * std::sin(pi * static_cast<double>(k) / static_cast<double>(n));
}

}  // namespace

double cos_pi(int64_t k, int64_t n) { return sin_pi(n - 2 * k, 2 * n); }

namespace {

// B. With a = pi (2r + 1) / 2N and b = pi (2j + 1) / 2n, the sum over the n frequencies is
//   B[r][j] = g / sqrt(n N) (-1)^j cos(n a) sin(b) / (cos a - cos b),
// where cos a - cos b = -2 sin((a + b) / 2) sin((a - b) / 2).
Matrix spliced_matrix(int64_t from, int64_t to, double gain) {
  struct Half {  // of an angle
    double sin;
    double cos;
  };
  std::vector<Half> halves;  // of b
  std::vector<double> numerators;
  const double size = std::sqrt(static_cast<double>(from)) * std::sqrt(static_cast<double>(to));
  for (int64_t j = 0; j < from; ++j) {
    halves.push_back({sin_pi(2 * j + 1, 4 * from), cos_pi(2 * j + 1, 4 * from)});
    numerators.push_back((j % 2 == 0 ? -0.5 : 0.5) * gain / size * sin_pi(2 * j + 1, 2 * from));
  }
  Matrix m(to, from);
  for (int64_t r = 0; r < to; ++r) {
    const Half a = {sin_pi(2 * r + 1, 4 * to), cos_pi(2 * r + 1, 4 * to)};
    const double numerator = cos_pi(from * (2 * r + 1), 2 * to);
    double* row = m.row(r);
    for (int64_t j = 0; j < from; ++j) {
      const Half& b = halves[j];
      double difference = a.sin * b.cos - a.cos * b.sin;
      if (std::abs(difference) < 0.1) {  // it has lost digits
        const int64_t exact = (2 * r + 1) * from - (2 * j + 1) * to;
        if (exact == 0) {  // the limit
          row[j] = gain * std::sqrt(static_cast<double>(from) / static_cast<double>(to));
          continue;
        }
        difference = sin_pi(exact, 4 * from * to);
      }
      row[j] = numerator * numerators[j] / ((a.sin * b.cos + a.cos * b.sin) * difference);
    }
  }
  return m;
}

// G. P^T P has the entries (D(r - i) + D(r + i + 1)) / 2N, where D is the sum over the n frequencies of
// 2 cos(pi k t / N), the first one halved. Each row of U has a few entries, so N^2 times these are multiplied.
Matrix low_band_matrix(const Matrix& interpolated) {
  const int64_t from = interpolated.cols;
  const int64_t to = interpolated.rows;
  std::vector<double> sums = {static_cast<double>(2 * from - 1)};  // D
  for (int64_t t = 1; t < 2 * to; ++t) sums.push_back(sin_pi((2 * from - 1) * t, 2 * to) / sin_pi(t, 2 * to));
  Matrix m(to, from);
  for (int64_t r = 0; r < to; ++r) {
    double* row = m.row(r);
    for (int64_t i = 0; i < to; ++i) {
      const double weight = sums[std::abs(r - i)] + sums[r + i + 1];
      const double* taps = interpolated.row(i);
      const Matrix::Run& run = interpolated.runs[i];
      for (int64_t c = run.begin; c < run.end; ++c) row[c] += weight * taps[c - run.begin];
    }
    for (int64_t c = 0; c < from; ++c) row[c] /= static_cast<double>(2 * to);
  }
  return m;
}

// One term of a prior: its factor along both axes, and its sign.
struct SignedFactor {
  Matrix AxisFactors::* factor;
  double sign = 1.0;
};

std::vector<SignedFactor> signed_factors(Prior prior) {
  const SignedFactor u{&AxisFactors::interpolated};
  const SignedFactor b{&AxisFactors::spliced};
  switch (prior) {
    case Prior::dse: return {u, b, {&AxisFactors::low_band, -1.0}};
    case Prior::dse_zero_pad: return {b};
    case Prior::spatial: return {u};
  }
  throw std::logic_error("a prior without terms");
}

// Only h factors carry a sign, so equal w factors compare equal.
bool merge_one(std::vector<Term>& terms) {
  for (size_t a = 0; a < terms.size(); ++a)
    for (size_t b = a + 1; b < terms.size(); ++b) {
      Term& one = terms[a];
      Term& other = terms[b];
      if (equal(one.w, other.w)) {
        one.h = sum(std::move(one.h), std::move(other.h));
      } else if (equal(one.h, other.h)) {
        one.w = sum(std::move(one.w), std::move(other.w));
      } else if (equal(one.h, other.h, -1.0)) {
        one.w = sum(std::move(one.w), std::move(other.w), -1.0);
      } else {
        continue;
      }
      terms.erase(terms.begin() + static_cast<int64_t>(b));
      return true;
    }
  return false;
}

}  // namespace

AxisFactors axis_factors(int64_t from, int64_t to, Interpolation interpolation, bool rescale) {
  // Exactly the identity, so that equal sizes return the previous logits themselves.
  if (from == to) return {identity(from), identity(from), identity(from)};
  AxisFactors factors;
  factors.interpolated = interpolation_matrix(from, to, interpolation);
  const double gain = rescale ? std::sqrt(static_cast<double>(to) / static_cast<double>(from)) : 1.0;
  factors.spliced = spliced_matrix(from, to, gain);
  factors.low_band = low_band_matrix(factors.interpolated);
  return factors;
}

std::vector<Term> prior_terms(Grid size, Grid prev_size, Prior prior, Interpolation interpolation, bool rescale,
                              bool transposed) {
  AxisFactors h = axis_factors(prev_size.h, size.h, interpolation, rescale);
  AxisFactors w = axis_factors(prev_size.w, size.w, interpolation, rescale);
  std::vector<Term> terms;
  for (const auto& [factor, sign] : signed_factors(prior))
    terms.push_back({sign < 0 ? negated(std::move(h.*factor)) : std::move(h.*factor), std::move(w.*factor)});
  while (merge_one(terms)) {
  }
  if (transposed)
    for (Term& term : terms) term = {transpose(term.h), transpose(term.w)};
  return terms;
}

Matrix dense_operator(const std::vector<Term>& terms) {
  Matrix m = kronecker(terms[0].h, terms[0].w);
  for (size_t t = 1; t < terms.size(); ++t) m = sum(std::move(m), kronecker(terms[t].h, terms[t].w));
  return m;
}

}  // namespace ssg
