#include "cheapest.h"

#include <utility>
#include <vector>

#include "form.h"

namespace ssg::cpu {

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
