#include <algorithm>
#include <utility>

#include "form.h"
#include "pack.h"

namespace ssg::cpu {
namespace {

// The columns of `m` from `begin` on, from `rows` of its rows.
Matrix part_of(const Matrix& m, int64_t first_row, int64_t rows, int64_t begin, int64_t cols) {
  Matrix part(rows, cols);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < cols; ++c) part.row(r)[c] = m(first_row + r, begin + c);
  return part;
}

// Rows of one parity each, `odd` of them odd, as blocks over folded coordinates: on coordinates of their own parity they
// have the entries that they have on the first half of the axis.
Transform<double> lift_of(const Matrix& rows, int64_t odd, const Side& side, int64_t gap, int64_t out) {
  if (!side.symmetric) return {block_of(rows, 0, out)};
  Transform<double> blocks;
  if (odd > 0 && side.odd() > 0) blocks.push_back(block_of(part_of(rows, 0, odd, 0, side.odd()), 0, out));
  const int64_t even = rows.rows - odd;
  if (even > 0)
    blocks.push_back(block_of(part_of(rows, odd, even, side.odd(), side.even()), side.odd() + gap, out + odd));
  return blocks;
}

// U - G = `back` `lift`, of rank N - n. The rows of `lift` and the columns of `back` are odd ones, then even ones.
struct HighBand {
  Matrix back;
  Matrix lift;
  int64_t odd = 0;
};

HighBand high_band(const Factors& axis) {
  const std::vector<int64_t> frequencies = by_class(axis.coarse(), axis.fine());
  const Matrix q = Cosines(axis.fine()).rows(frequencies);
  const Matrix qu = product(q, axis.transposed ? transpose(axis.u) : axis.u);
  HighBand band;
  band.odd = odd_ones(frequencies);
  band.back = transpose(axis.transposed ? qu : q);
  band.lift = axis.transposed ? q : qu;
  if (axis.symmetric && axis.out % 2 != 0)  // an odd frequency is zero in the middle
    std::fill_n(band.back.row(axis.out / 2), band.odd, 0.0);
  return band;
}

}  // namespace

Plan<double> rank_form(const PlanKey& key, const Factors& h, const Factors& w) {
  Plan<double> plan = plan_of(key, Structure::rank, h, w);
  const HighBand high_h = high_band(h);
  const HighBand high_w = high_band(w);
  const int64_t appended = high_w.lift.rows;
  plan.row = w.in + appended;
  plan.pairs_h = h.odd();
  plan.pairs_w = w.odd();
  const int64_t gap_at = w.symmetric ? w.odd() : w.in;

  plan.lift_h = lift_of(high_h.lift, high_h.odd, h, 0, 0);
  plan.lifted = high_h.lift.rows;
  plan.h_taps = taps_of(high_h.back);
  plan.w_taps = taps_of(w.u);
  if (w.symmetric)  // undoing a fold doubles an entry that has a mirror
    for (size_t i = 0; i < plan.w_taps.index.size(); ++i)
      if (2 * plan.w_taps.index[i] + 1 != w.in) plan.w_taps.coefficient[i] *= 0.5;

  plan.lift_w = lift_of(high_w.lift, high_w.odd, w, appended, gap_at);
  const int64_t odd = w.symmetric ? high_w.odd : 0;
  std::vector<Piece> pieces;
  pieces.push_back({folded(h.b, h), folded(w.b, w), w.odd(), 0, w.symmetric ? gap_at + appended : 0});
  pieces.push_back({folded(h.g, h), high_w.back, odd, gap_at, gap_at + odd});
  set_dense(plan, pieces, h, w);
  return counted(std::move(plan));
}

}  // namespace ssg::cpu
