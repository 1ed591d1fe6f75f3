#include <utility>

#include "form.h"
#include "pack.h"

namespace ssg::cpu {

Plan<double> separable_form(const PlanKey& key, Structure structure, const std::vector<Term>& terms) {
  Side h = side_of(terms, &Term::h);
  Side w = side_of(terms, &Term::w);
  Plan<double> plan = plan_of(key, structure, h, w);
  std::vector<const Term*> dense;
  for (const Term& term : terms) {
    const Taps<double> h_taps = taps_of(term.h);
    const Taps<double> w_taps = taps_of(term.w);
    const int64_t banded = h.in * w.out * w_taps.count + h.out * w.out * h_taps.count;
    const int64_t full = (h.out * h.in / (1 + h.folds()) + h.out) * w.in + h.out * w.out * w.in / (1 + w.folds());
    if (!plan.has_addend() && banded <= full) {
      plan.h_taps = h_taps;
      plan.w_taps = w_taps;
    } else {
      dense.push_back(&term);
    }
  }
  if (dense.empty()) return counted(std::move(plan));
  plan.pairs_w = w.odd();
  // The slots of a row are the map's row where the only h factor is an identity.
  const bool is_row = dense.size() == 1 && equal(dense[0]->h, identity(h.in));
  if (!is_row) plan.pairs_h = h.odd();
  std::vector<Piece> pieces;
  for (const Term* term : dense) pieces.push_back({folded(term->h, h), folded(term->w, w), w.odd(), 0, w.odd()});
  set_dense(plan, pieces, h, w);
  if (is_row) {
    plan.columns.clear();
    plan.h.clear();
  }
  return counted(std::move(plan));
}

}  // namespace ssg::cpu
