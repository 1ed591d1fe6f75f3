// The MMA engine: the strips of a block, one after the other, and the stages of each.
#pragma once

#include "divide.h"
#include "tensor.h"

namespace ssg::cuda {

// Strips that are neighbours share pages of memory. With splits, several blocks share the groups of a strip.
template <class S, int Parts, class Shape>
SSG_DEVICE void Tensor<S, Parts, Shape>::work() {
  clear_slots();
  if constexpr (pins) {
    pinned_map = here(map_at(lane));
    pinned_slots = here(slots_at());
    SSG_UNROLL
    for (int i = 0; i < tiles; ++i) pinned_rows[i] = here(row_at(lane, warp * rows_at_once, i));
  }
  int64_t index = block_index() * p.per_block;
  int left = p.items - index < p.per_block ? static_cast<int>(p.items - index) : p.per_block;
  int split = static_cast<int>(index % p.splits);
  index /= p.splits;
  strip = static_cast<int>(index % p.strips);
  batch = index / p.strips;
  SSG_UNROLL_BY(1)
  for (;;) {
    begin();
    SSG_UNROLL_BY(1)
    do {
      strip_of(first_group(split), first_group(split + 1));
      if (--left == 0) return;
      if (++split < p.splits) continue;
      split = 0;
      if constexpr (pins) {
        SSG_UNROLL
        for (const S*& x : previous) x += columns;
      }
      current += columns;
      out += columns;
      ++strip;
    } while (split > 0 || (strip != p.whole_strips && strip != p.strips));
    if (strip == p.strips) {
      strip = 0;
      ++batch;
    }
  }
}

// What is the same in all strips of a sample that are whole, or in all that are not.
template <class S, int Parts, class Shape>
SSG_DEVICE void Tensor<S, Parts, Shape>::begin() {
  weights = read_merged_weights(p.call, batch);
  const int first = pins ? warp * rows_at_once * size<&Z::out_w>() + (in_runs() ? g : lane / columns) : 0;
  if constexpr (pins) {
    const int thread = here(thread_index()) % threads;
    if (whole()) {
      SSG_UNROLL
      for (int n = 0; n < 2; ++n) pinned[n] = kept(unit_of(thread, (thread + n * threads) / (8 * tiles)));
    } else {
      pinned[0] = kept(element_unit(thread % 32, thread / 32 * per_warp()));
    }
    const int token = whole() ? 0 : first_token();
    const int column = whole() ? Runs<tiles>::first * (lane % tiles) : lane % columns;
    SSG_UNROLL
    for (int s = 0; s < (has_two ? 2 : 1); ++s) previous[s] = at(p.call.previous[s], token, column);
  }
  current = at(p.call.current[0], first, own_column(lane, in_runs()));
  out = const_cast<S*>(at(p.call.out, first, own_column(lane, in_runs())));
}

template <class S, int Parts, class Shape>
SSG_DEVICE void Tensor<S, Parts, Shape>::strip_of(int first, int last) {
  const float squares = whole() ? load_map() : load_elements();
  // NaN compares false. The barriers say too that the map has arrived, and that the slots may be overwritten.
  const bool too_large = barrier_or(!(squares <= p.most_squares));
  const bool too_small = !barrier_or(squares >= p.least_squares);
  if (too_large || too_small) {
    exact_strip(first, last, !too_small);
    clear_slots();
    barrier();
    return;
  }
  SSG_UNROLL_BY(1)
  for (int group = first; group < last; ++group) {
    if (group > first) barrier();
    fill_slots(group);
    barrier();
    write_rows(group);
  }
}

template <class S, int Parts, class Shape>
SSG_DEVICE int Tensor<S, Parts, Shape>::first_group(int split) const {
  if constexpr (Shape::sized && sized_layout.groups == 1) return split;
  return divide(split * of<&L::groups>(), p.by_splits);
}

// Slots that nothing is written to meet zero coefficients, so they must be finite.
template <class S, int Parts, class Shape>
SSG_DEVICE void Tensor<S, Parts, Shape>::clear_slots() const {
  const uint32_t zeros[4] = {};
  const int begin = size<&Z::in_w>() * of<&L::column_bytes>();
  for (int at = begin + 16 * thread_index(); at < of<&L::bytes>(); at += 16 * threads) write_shared(memory + at, zeros);
}

}  // namespace ssg::cuda
