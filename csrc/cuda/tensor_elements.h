// The MMA engine: the map and the output of strips that are not whole, element by element (tensor_rows.h).
#pragma once

#include <type_traits>

#include "tensor.h"
#include "tensor_load.h"
#include "tensor_second.h"

namespace ssg::cuda {

// The first one of the units that a lane takes of the blocks from `block` on.
template <class S, int Parts, class Shape>
SSG_DEVICE auto Tensor<S, Parts, Shape>::element_unit(int lane, int block) const -> Unit {
  const int first = (block + lane / (8 * tiles)) * 8 * static_cast<int>(map_row);
  const int row = row_of(lane);
  const int t = lane % tiles;
  constexpr int bytes = Parts == 2 ? 4 : static_cast<int>(sizeof(S));
  return {first + (row * columns + Runs<tiles>::first * t) * bytes, first + chunk_at<Parts * tiles>(row, t)};
}

// A warp takes neighbouring blocks of eight rows of the map, `at_once` of them at a time. They pass through where they
// will lie, merged, as float32 if the map has two parts.
template <class S, int Parts, class Shape>
SSG_DEVICE float Tensor<S, Parts, Shape>::load_elements() const {
  using Staged = std::conditional_t<Parts == 2, float, S>;
  constexpr int together = 4 / tiles;  // blocks of which the lanes take a unit each
  constexpr int units = has_two && windows ? 1 : 2;
  constexpr int at_once = units * together;
  const int blocks = (size<&Z::in_h>() + 7) / 8;
  const int count = size<&Z::in_w>() * blocks;
  const int per_warp = this->per_warp();
  const Rows rows = rows_of(pins ? this->lane : here(this->lane) & 31);
  int block = (pins ? warp : here(warp)) * per_warp;
  const int end = block + per_warp < count ? block + per_warp : count;
  // Where the blocks of a column are known, so is where a block lies in it.
  constexpr int sized_blocks = (Shape::sizes.in_h + 7) / 8;
  constexpr bool steady = Shape::sized && at_once % sized_blocks == 0;
  int in_column = 0;  // the block's number in its coarse column
  int j = block;
  if (blocks > 1) {
    j = Shape::sized ? static_cast<int>(static_cast<unsigned>(block) / blocks) : divide(block, p.by_blocks);
    in_column = steady ? 0 : block - j * blocks;
  }
  constexpr int most_sources = Parts == 2 ? 2 : 1;
  const int sources = Parts == 2 ? p.call.sources : 1;
  int64_t place[most_sources];
  SSG_UNROLL
  for (int s = 0; s < most_sources; ++s)
    if (s < sources)
      place[s] = global_address(
          pins ? previous[s] : at(p.call.previous[s], (8 * in_column + rows.row) * size<&Z::in_w>() + j, rows.column));
  float squares = 0.0f;
  SSG_UNROLL_BY(1)
  for (; block < end; block += at_once) {
    const auto exists = [&](int b) { return block + b < end; };
    int numbers[at_once];  // of the blocks in their coarse column
    SSG_UNROLL
    for (int b = 0; b < at_once; ++b) {
      numbers[b] = steady ? b % sized_blocks : in_column;
      in_column = in_column + 1 == blocks ? 0 : in_column + 1;
    }
    Elements elements[at_once];
    Staged staged[at_once][per_thread];
    call_each<most_sources>([&](int s) {
      if (s > 0 && s == sources) return;
      SSG_UNROLL
      for (int b = 0; b < at_once; ++b) rows.clear(elements[b]);
      if (rows.in_strip) {
        const int64_t bytes = here(bytes_of(p.call.previous[s]));
        const int64_t distance = Rows::apart * size<&Z::in_w>() * bytes;
        const int64_t to_next_column = bytes - 8 * blocks * size<&Z::in_w>() * bytes;
        call_each<at_once>([&](int b) {
          if (!exists(b)) return;
          rows.load(elements[b], place[s], distance, size<&Z::in_h>() - 8 * numbers[b]);
          place[s] = stepped(place[s], numbers[b] + 1 == blocks ? to_next_column : 0);
        });
      }
      SSG_UNROLL
      for (int b = 0; b < at_once; ++b) {
        SSG_UNROLL
        for (int e = 0; e < per_thread; ++e) {
          Staged& x = staged[b][e];
          if constexpr (Parts == 1)
            x = elements[b][e];
          else if (s == 0)
            x = to_float(elements[b][e]);
          else
            x = fused_multiply_add(weights.merge[1], to_float(elements[b][e]), weights.merge[0] * x);
        }
      }
    });
    SSG_UNROLL
    for (int b = 0; b < at_once; ++b)
      if (exists(b)) rows.put(memory + (block + b) * 8 * map_row, staged[b]);
    converge();
    using Four = Vec<Staged, 4>;
    const int own = rows.lane / (8 * tiles);
    const Unit unit = pins ? pinned[0] : element_unit(rows.lane, block);
    Four found[units][2] = {};
    SSG_UNROLL
    for (int n = 0; n < units; ++n) {
      if (!exists(n * together + own)) continue;
      SSG_UNROLL
      for (int run = 0; run < 2; ++run)
        found[n][run] = load_shared(shared_pointer<const Four>(memory + unit.from + n * together * 8 * map_row) +
                                    run * Runs<tiles>::second / 4);
    }
    converge();
    SSG_UNROLL
    for (int n = 0; n < units; ++n) {
      float values[2][4];
      uint32_t word[2][run_words];
      SSG_UNROLL
      for (int run = 0; run < 2; ++run) {
        SSG_UNROLL
        for (int e = 0; e < 4; ++e) values[run][e] = to_float(found[n][run].at[e]);
        if constexpr (Parts == 1) {
          SSG_UNROLL
          for (int w = 0; w < 2; ++w)
            word[run][w] = found[n][run].at[2 * w].bits | uint32_t{found[n][run].at[2 * w + 1].bits} << 16;
        }
      }
      put_unit(unit.to + n * together * 8 * map_row, values, word, exists(n * together + own), squares);
    }
    constexpr bool once = Shape::sized && Shape::sizes.in_w * sized_blocks <= kMmaWarps * at_once;
    if (once) break;
  }
  return squares;
}

// Where the elements of a lane lie: those of the next eight tokens, and of their mirrors.
template <class S, int Parts, class Shape>
struct Tensor<S, Parts, Shape>::Walk {
  int64_t at[parities];
  int64_t bytes;  // from a token to the next one

  SSG_DEVICE int64_t distance(int side) const { return (side == 0 ? Rows::apart : -Rows::apart) * bytes; }
  // From behind both halves of a row to the next row.
  SSG_DEVICE void end_row(int half, int side, int width) {
    if (side == 0 && width == 16) return;
    if (half == 1) at[side] = stepped(at[side], (side == 0 ? width - 16 : width + 16) * bytes);
  }
};

template <class S, int Parts, class Shape>
SSG_DEVICE auto Tensor<S, Parts, Shape>::walk_of(const Logits& logits, const S* first, const Rows& rows, int row,
                                                 int tile) const -> Walk {
  Walk walk;
  walk.bytes = here(bytes_of(logits));
  if constexpr (pins) {
    walk.at[0] = global_address(first);
  } else {
    const int c = tile * 16 + rows.row;
    SSG_UNROLL
    for (int side = 0; side < parities; ++side)
      walk.at[side] =
          global_address(first) + (row * size<&Z::out_w>() + (side == 0 ? c : size<&Z::out_w>() - 1 - c)) * walk.bytes;
  }
  return walk;
}

template <class S, int Parts, class Shape>
template <int Sources>
SSG_DEVICE void Tensor<S, Parts, Shape>::write_elements(int row, int local, int tile) const {
  const Rows rows = rows_of(pins ? this->lane : here(this->lane) & 31);
  const int lane = Sources > 0 ? this->lane : rows.lane;
  const int width = size<&Z::out_w>();
  const auto count = [&](int r, int half) {
    if (!exact_rows && row + r >= size<&Z::out_h>()) return 0;
    return exact_columns ? 8 : of<&L::pairs>() - tile * 16 - 8 * half;
  };
  const auto walk = [&](int source) {
    const Logits& logits = p.call.current[source];
    const S* first = source == 0 ? first_of(logits, current, false)
                                 : at(logits, pins ? warp * rows_at_once * width + rows.row : 0, rows.column);
    return walk_of(logits, first, rows, row, tile);
  };
  // Elements of 16 bits take a register each, too many beside the products if two blocks share the registers.
  constexpr bool requests_first = blocks_at_once == 1;
  constexpr bool one_by_one = Sources == 0 && !has_two && !requests_first;
  constexpr int sources = Sources == 2 && requests_first ? 2 : 1;
  Elements elements[sources][rows_at_once][2][parities];
  const auto request = [&](int s) {
    for_all([&](int r, int half, int side) { rows.clear(elements[s][r][half][side]); });
    if (!rows.in_strip || (Sources == 0 && p.call.current[0].data == nullptr)) return;
    Walk from = walk(s);
    for_all([&](int r, int half, int side) {
      rows.load(elements[s][r][half][side], from.at[side], from.distance(side), count(r, half));
      from.end_row(half, side, width);
    });
  };
  if (!one_by_one && requests_first) call_each<sources>(request);
  Sums sum;
  contract(sum, lane, local, tile);
  if (!one_by_one && !requests_first) call_each<sources>(request);
  const uint32_t stage = stage_of(local);
  converge();  // this warp has read its slots
  Walk from;
  if (one_by_one) from = walk(0);
  if (Sources == 2 && sources == 1) from = walk(1);
  Walk to = walk_of(p.call.out, first_of(p.call.out, out, false), rows, row, tile);
  for_all([&](int r, int half, int side) {
    float value[per_thread];
    weigh(value, sum, r, half, side);
    Elements& each = elements[0][r][half][side];
    if (one_by_one) {
      rows.clear(each);  // zeros where there are no logits of this scale
      if (rows.in_strip && p.call.current[0].data != nullptr)
        rows.load(each, from.at[side], from.distance(side), count(r, half));
      from.end_row(half, side, width);
    }
    uint32_t line[2][words];
    rows.to_run(line[0], each, stage);
    if constexpr (Sources == 2) {
      if constexpr (sources == 1) {
        rows.clear(each);
        if (rows.in_strip) rows.load(each, from.at[side], from.distance(side), count(r, half));
        from.end_row(half, side, width);
      }
      converge();
      rows.to_run(line[1], elements[sources - 1][r][half][side], stage);
    }
    finish<Sources>(line[0], line[1], value);
    rows.to_elements(each, line[0], stage);
    rows.store(to.at[side], to.distance(side), count(r, half), each);
    to.end_row(half, side, width);
  });
}

}  // namespace ssg::cuda
