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
  require(key.prev_size.h > 0 && key.prev_size.w > 0, "prev_size must be positive");
  require(key.size.h >= key.prev_size.h && key.size.w >= key.prev_size.w, "prev_size must not exceed size");
  return prior_terms(key.size, key.prev_size, key.prior, key.interpolation, key.rescale, key.transposed);
}

PairRow pair_row(const Matrix& factor, const Axis& axis, int64_t pair) {
  PairRow row{std::vector<double>(axis.in_even()), std::vector<double>(axis.in_odd())};
  for (int64_t i = 0; i < axis.in_even(); ++i) {
    const int64_t mirror = axis.in - 1 - i;
    if (!axis.symmetric || i == mirror) {
      row.even[i] = factor(pair, i);
    } else {
      row.even[i] = 0.5 * (factor(pair, i) + factor(pair, mirror));
      row.odd[i] = 0.5 * (factor(pair, i) - factor(pair, mirror));
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
  const Axis h = make_axis(terms, &Term::h);
  const Axis w = make_axis(terms, &Term::w);
  const bool one_row = terms.size() == 1 && terms[0].h == identity(1);
  return {key, form, std::move(terms), h, w, one_row};
}

// Multiply-adds that one output pair takes.
int64_t cost_of(const Matrix& factor, const Axis& axis) {
  const Band band = band_of(factor, axis);
  return band.is_narrow(axis) ? band.count() : axis.in;
}

}  // namespace

int64_t Step::multiply_adds() const {
  int64_t sum = 0;
  for (const Term& term : terms) {
    sum += h.pairs() * cost_of(term.h, h) * w.in;
    sum += h.out * w.pairs() * cost_of(term.w, w);
  }
  return sum;
}

Step make_step(const StepKey& key) {
  Step separable = step_of(key, Form::separable, terms_of(key));

  // The dense form is worth building only where it can win. The separable form passes its slots through memory, which
  // costs about a multiply-add each.
  const int64_t dense_cost =
      key.size.tokens() * key.prev_size.tokens() / (separable.h.symmetric && separable.w.symmetric ? 2 : 1);
  const int64_t separable_cost = separable.multiply_adds() + separable.h.out * separable.slots();
  if (dense_cost > separable_cost || separable.terms.size() == 1) return separable;
  return step_of(key, Form::dense, {{identity(1), dense_operator(separable.terms)}});
}

}  // namespace ssg
