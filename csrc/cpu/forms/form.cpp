#include "form.h"

#include <algorithm>
#include <utility>

#include "pack.h"

namespace ssg::cpu {

Plan<double> plan_of(const PlanKey& key, Structure structure, const Side& h, const Side& w) {
  Plan<double> plan;
  plan.key = key;
  plan.structure = structure;
  plan.in_h = h.in;
  plan.in_w = w.in;
  plan.out_h = h.out;
  plan.out_w = w.out;
  plan.row = w.in;
  return plan;
}

void set_dense(Plan<double>& plan, const std::vector<Piece>& pieces, const Side& h, const Side& w) {
  int64_t lengths[kMostFolds + 1] = {};
  int64_t slots = 0;
  for (const Piece& piece : pieces) {
    slots += piece.w.cols;
    if (w.symmetric) lengths[0] += piece.odd;
  }
  lengths[w.folds()] = slots - (w.symmetric ? lengths[0] : 0);
  Matrix all(w.out, slots);
  int64_t slot = 0;
  const auto take = [&](size_t p, int64_t begin, int64_t count, int64_t from) {
    if (count == 0) return;
    for (int64_t r = 0; r < w.out; ++r)
      for (int64_t c = 0; c < count; ++c) all.row(r)[slot + c] = pieces[p].w(r, begin + c);
    Columns* last = plan.columns.empty() ? nullptr : &plan.columns.back();
    const auto factor = static_cast<int64_t>(p);
    if (last != nullptr && last->factor == factor && last->from + last->count == from)
      last->count += count;
    else
      plan.columns.push_back({from, slot, count, factor});
    slot += count;
  };
  for (size_t p = 0; p < pieces.size(); ++p) take(p, 0, pieces[p].odd, pieces[p].from_odd);
  for (size_t p = pieces.size(); p-- > 0;)
    take(p, pieces[p].odd, pieces[p].w.cols - pieces[p].odd, pieces[p].from_even);
  plan.w = expansion_of(all, w.out, w.folds(), lengths, plan.key.accumulators);

  set_lengths(lengths, h.in, h.folds());
  for (const Piece& piece : pieces)
    plan.h.push_back(expansion_of(piece.h, h.out, h.folds(), lengths, plan.key.accumulators));
}

namespace {

int64_t multiply_adds(const Transform<double>& transform) {
  int64_t sum = 0;
  for (const Block<double>& block : transform) sum += block.matrix.multiply_adds();
  return sum;
}

int64_t spectrum_rows(const Plan<double>& plan) {
  int64_t rows = 0;
  for (const auto& group : plan.groups) rows += static_cast<int64_t>(group.size());
  return rows;
}

// Of the taps and of the bracket.
int64_t banded_multiply_adds(const Plan<double>& plan) {
  return plan.addend_rows() * plan.out_w * plan.w_taps.count + plan.out_h * plan.out_w * plan.h_taps.count +
         spectrum_rows(plan) * plan.w.in() * (plan.bracket_h.count + plan.bracket_w.count);
}

// Products of a chunk with one vector, which the kernel begins anew for each.
int64_t tiles(const Transform<double>& transform) {
  int64_t sum = 0;
  for (const Block<double>& block : transform) sum += static_cast<int64_t>(block.matrix.chunks.size());
  return sum;
}

}  // namespace

Plan<double> counted(Plan<double> plan) {
  int64_t& sum = plan.multiply_adds;
  sum += multiply_adds(plan.lift_h) * plan.in_w + multiply_adds(plan.lift_w) * plan.in_h;
  sum += multiply_adds(plan.spectrum_h) * plan.in_w + multiply_adds(plan.spectrum_w) * spectrum_rows(plan);
  for (const Columns& columns : plan.columns)
    sum += plan.h[static_cast<size_t>(columns.factor)].multiply_adds() * columns.count;
  sum += plan.out_h * plan.w.multiply_adds() + banded_multiply_adds(plan);
  return plan;
}

int64_t cost_of(const Plan<double>& plan) {
  constexpr int64_t kTile = 16;
  int64_t begun = plan.out_h * static_cast<int64_t>(plan.w.chunks.size());
  begun += tiles(plan.lift_h) * plan.in_w + tiles(plan.lift_w) * plan.in_h;
  begun += tiles(plan.spectrum_h) * plan.in_w + tiles(plan.spectrum_w) * plan.w.in();
  for (const Columns& columns : plan.columns)
    begun += static_cast<int64_t>(plan.h[static_cast<size_t>(columns.factor)].chunks.size()) * columns.count;
  const int64_t slots = plan.h.empty() ? 0 : plan.out_h * plan.w.in();
  const int64_t late = plan.out_h * plan.out_w * std::max<int64_t>(plan.h_taps.count - 4, 0);
  return plan.multiply_adds + banded_multiply_adds(plan) + late + kTile * begun + slots;
}

}  // namespace ssg::cpu
