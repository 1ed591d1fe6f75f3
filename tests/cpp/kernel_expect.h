// What a call must give, by the dense operator in double, and whether it does.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <map>
#include <string>
#include <vector>

#include "kernel_case.h"

namespace ssg::test {

constexpr double kAnything = 1e300;  // expected where an infinity or a NaN may or may not have spread to

// The expected result, (batch, tokens, vocabulary) in double.
struct Expected {
  std::vector<double> values;  // NaN where the result must be an infinity or a NaN, kAnything where it may be
  double largest_term = 0.0;   // the largest of the terms of their sums
};

inline Expected expect(const Case& c, const Inputs& inputs) {
  const int64_t vocabulary = c.vocabulary;
  const int64_t out_tokens = c.out().tokens();
  const int64_t in_tokens = c.in().tokens();
  const ssg::Matrix& matrix = dense(c.key);
  Expected expected;
  expected.values.resize(static_cast<size_t>(c.batch * out_tokens * vocabulary));
  const auto weighted = [&](double weight, double value) {
    const double term = weight * value;
    if (std::isfinite(term)) expected.largest_term = std::max(expected.largest_term, std::abs(term));
    return term;
  };
  for (int64_t b = 0; b < c.batch; ++b) {
    const double* weight = inputs.weights.get() + b * 2 * c.sources;
    std::vector<double> merged(static_cast<size_t>(in_tokens * vocabulary));
    std::vector<char> is_tainted(static_cast<size_t>(vocabulary));  // columns that an infinity or a NaN goes into
    for (int64_t t = 0; t < in_tokens; ++t)
      for (int64_t v = 0; v < vocabulary; ++v) {
        double& sum = merged[static_cast<size_t>(t * vocabulary + v)];
        for (int64_t s = 0; s < c.sources; ++s)
          sum += weighted(weight[c.sources + s], inputs.previous[static_cast<size_t>(s)].get(b, t, v));
        if (!std::isfinite(sum)) is_tainted[static_cast<size_t>(v)] = 1;
      }
    for (int64_t t = 0; t < out_tokens; ++t) {
      double* row = expected.values.data() + (b * out_tokens + t) * vocabulary;
      for (int64_t v = 0; v < vocabulary; ++v) {
        if (is_tainted[static_cast<size_t>(v)] != 0) row[v] = kAnything;
        for (size_t s = 0; s < inputs.current.size(); ++s)
          row[v] += weighted(weight[s], inputs.current[s].get(b, t, v));
      }
      for (int64_t i = 0; i < in_tokens; ++i) {
        const double coefficient = matrix(t, i);
        const double* x = merged.data() + i * vocabulary;
        for (int64_t v = 0; v < vocabulary; ++v)
          if (std::isfinite(x[v]))
            row[v] += coefficient * x[v];
          else if (std::abs(coefficient) > 1e-3)
            row[v] = kNaN;
      }
      for (int64_t v = 0; v < vocabulary; ++v) {
        if (is_tainted[static_cast<size_t>(v)] != 0 && std::isinf(row[v])) row[v] = kNaN;
        if (!inputs.current.empty() && inputs.current[0].get(b, t, v) == -kInfinity) row[v] = -kInfinity;
      }
    }
  }
  return expected;
}

struct Halves {
  int64_t equal = 0;
  int64_t all = 0;
};
inline std::map<Scalar, Halves> halves;

inline std::string compare(const Case& c, const Buffer& out, const Expected& expected) {
  double largest = expected.values.size() < 16 ? expected.largest_term : 0.0;
  for (double value : expected.values)
    if (std::isfinite(value) && value != kAnything) largest = std::max(largest, std::abs(value));
  const double bound = (c.scalar == Scalar::float64 ? 1e-12 : 2e-6) * largest;
  const bool is_half = number(c.scalar).bytes == 2;
  Halves& half = halves[c.scalar];
  std::string error;
  size_t next = 0;
  out.each([&](int64_t b, int64_t t, int64_t v) {
    const double value = out.get(b, t, v);
    const double wanted = expected.values[next++];
    if (wanted == kAnything) return;
    bool is_right;
    if (std::isnan(wanted)) {
      is_right = !std::isfinite(value);
    } else if (std::isinf(wanted)) {
      is_right = value == wanted;
    } else {
      is_right = std::abs(value - wanted) <= bound + (is_half ? 0.5 * ulp(wanted, c.scalar) : 0.0);
      ++half.all;
      half.equal += value == rounded(wanted, c.scalar);
    }
    if (is_right || !error.empty()) return;
    char text[200];
    std::snprintf(text, sizeof(text), "(%d, %d, %d) is %.9g, expected %.9g within %.3g", static_cast<int>(b),
                  static_cast<int>(t), static_cast<int>(v), value, wanted, bound);
    error = text;
  });
  return error;
}

}  // namespace ssg::test
