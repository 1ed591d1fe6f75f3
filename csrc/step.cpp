#include "step.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace ssg {
namespace {

void require(bool condition, const char* what) {
  if (!condition) throw std::invalid_argument(what);
}

}  // namespace

std::vector<Term> terms_of(const StepKey& key) {
  // Far more than any machine computes, and so few that no product of sizes here or in the kernels overflows.
  constexpr int64_t kMostTokens = int64_t{1} << 30;
  require(key.prev_size.h > 0 && key.prev_size.w > 0, "prev_size must be positive");
  require(key.size.h >= key.prev_size.h && key.size.w >= key.prev_size.w, "prev_size must not exceed size");
  require(key.size.tokens() <= kMostTokens, "size must have at most 2**30 tokens");
  return prior_terms(key.size, key.prev_size, key.prior, key.interpolation, key.rescale, key.transposed);
}

PairRow pair_row(const Matrix& factor, const Axis& axis, int64_t pair) {
  PairRow row{std::vector<double>(axis.in_even()), std::vector<double>(axis.in_odd())};
  const Matrix::Run& run = factor.runs[pair];
  for (int64_t c = run.begin; c < run.end; ++c) {
    const double value = factor.values[run.at + c - run.begin];
    const int64_t mirror = axis.in - 1 - c;
    if (!axis.symmetric || c == mirror) {
      row.even[c] = value;
    } else {
      row.even[std::min(c, mirror)] += 0.5 * value;
      row.odd[std::min(c, mirror)] += c < mirror ? 0.5 * value : -0.5 * value;
    }
  }
  // The middle output is its own mirror: its odd part is rounding noise of a symmetric factor.
  if (axis.symmetric && axis.mirror(pair) == pair) std::fill(row.odd.begin(), row.odd.end(), 0.0);
  return row;
}

Band band_of(const Matrix& factor, const Axis& axis) {
  const auto nonzeros = [](const std::vector<double>& values) {
    return static_cast<int64_t>(values.size()) - std::count(values.begin(), values.end(), 0.0);
  };
  Band band;
  for (int64_t pair = 0; pair < axis.pairs(); ++pair) {
    const PairRow row = pair_row(factor, axis, pair);
    band.even = std::max(band.even, nonzeros(row.even));
    band.odd = std::max(band.odd, nonzeros(row.odd));
  }
  return band;
}

namespace {

// The axis of the terms' h or w factors; symmetric where all of them are.
Axis make_axis(const std::vector<Term>& terms, Matrix Term::* factor) {
  const Matrix& first = terms[0].*factor;
  const bool symmetric =
      std::all_of(terms.begin(), terms.end(), [factor](const Term& term) { return is_symmetric(term.*factor); });
  return {first.cols, first.rows, symmetric};
}

Step step_of(const StepKey& key, Form form, std::vector<Term> terms) {
  Step step;
  step.key = key;
  step.form = form;
  step.h = make_axis(terms, &Term::h);
  step.w = make_axis(terms, &Term::w);
  for (const Term& term : terms) {
    step.h_bands.push_back(band_of(term.h, step.h));
    step.w_bands.push_back(band_of(term.w, step.w));
  }
  step.one_row = terms.size() == 1 && equal(terms[0].h, identity(1));
  step.terms = std::move(terms);
  return step;
}

// Multiply-adds that one output pair takes.
int64_t cost_of(const Band& band, const Axis& axis) { return band.is_narrow(axis) ? band.count() : axis.in; }

}  // namespace

int64_t Step::multiply_adds() const {
  int64_t sum = 0;
  for (const Band& band : h_bands) sum += h.pairs() * cost_of(band, h) * w.in;
  for (const Band& band : w_bands) sum += h.out * w.pairs() * cost_of(band, w);
  return sum;
}

Step make_separable_step(const StepKey& key) { return step_of(key, Form::separable, terms_of(key)); }

Step make_step(const StepKey& key) {
  Step separable = make_separable_step(key);

  // The dense form is worth building only where it can win. The separable form passes its slots through memory, which
  // costs about a multiply-add each.
  const Wide dense_cost =
      key.size.tokens() * key.prev_size.tokens() / (separable.h.symmetric && separable.w.symmetric ? 2 : 1);
  const int64_t separable_cost = separable.multiply_adds() + separable.h.out * separable.slots();
  if (dense_cost > separable_cost || separable.terms.size() == 1) return separable;
  return step_of(key, Form::dense, {{identity(1), dense_operator(separable.terms)}});
}

}  // namespace ssg
