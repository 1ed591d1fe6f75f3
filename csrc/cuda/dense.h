// The dense engine: the step on a small map as one contraction over all coarse tokens, folded along both axes. A block
// takes 32 vocabulary columns of a sample, a lane a column, in two stages:
//   map     loads a coarse token with its mirrors along w, along h and along both, and keeps sums and differences
//   output  a warp takes a few output tokens with their mirrors: a product for each parity, then sums and differences;
//           the epilogue adds the logits of this scale
// The map lies in shared memory, [k][column]. What comes of a token and its mirrors lies together: even along both axes,
// odd along w, along h, along both. Tokens with all mirrors come first, then those on the middle row, on the middle
// column, on both, which lack some of the four.
// Lanes share nothing else, so no access needs an alignment, and each fills its sectors and its banks.
#pragma once

#include "device.h"
#include "params.h"
#include "strength.h"
#include "tiles.h"

namespace ssg::cuda {

// S: what logits are stored as. T: what they are computed in.
template <class S, class T>
struct Dense {
  using Parameters = DenseParams;
  static constexpr int threads_at_most = 32 * kMostDenseWarps;
  static constexpr int blocks_at_once = 2;
  // Output tokens that a warp takes at once, each with three mirrors: their coefficients for one k are 16 bytes.
  static constexpr int at_once = 16 / static_cast<int>(sizeof(T));
  using Several = Vec<T, at_once>;
  using Tokens = Vec<int32_t, 4>;

  const DenseParams& p;
  T* map;  // of this lane's column, as are all pointers to logits
  int warp;
  int warps;
  int64_t batch;
  int64_t column;
  bool exists;  // the column
  Weights<T> weights;

  static SSG_DEVICE void run(const DenseParams& p) {
    const auto block = static_cast<uint32_t>(block_index());
    const auto strips = static_cast<uint32_t>(p.strips);
    const int lane = thread_index() % 32;
    const int64_t batch = block / strips;
    const int64_t column = int64_t{block % strips} * 32 + lane;
    Dense self{p,
               reinterpret_cast<T*>(shared_memory()) + lane,
               thread_index() / 32,
               thread_count() / 32,
               batch,
               column,
               column < p.call.vocabulary,
               read_weights<T>(p.call, batch)};
    self.work();
  }

  // The logits of an item are requested before its products, those of the first item before the map. A warp may have no
  // item, and only load a part of the map.
  SSG_DEVICE void work() const {
    SSG_UNROLL_BY(1)
    for (int item = warp; item == warp || item < p.items; item += warps) {
      const bool computes = exists && item < p.items;
      const bool whole = item < p.whole_items;
      Tokens tokens[at_once];
      S current[2][at_once][4] = {};
      if (computes) {
        bring_coefficients_near(item);
        SSG_UNROLL
        for (int n = 0; n < at_once; ++n) tokens[n] = constants<Tokens>(p.tokens)[item * at_once + n];
        if (whole)
          fetch<true>(tokens, current);
        else
          fetch<false>(tokens, current);
      }
      if (item == warp) {
        if (exists) load_map();
        barrier();
      }
      if (computes) {
        T value[at_once][4] = {};
        multiply(item, value);
        if (whole)
          write<true>(tokens, current, value);
        else
          write<false>(tokens, current, value);
      }
    }
  }

  // This lane's column of the tokens of a sample. Addresses are in bytes.
  struct Column {
    int64_t data;
    int64_t stride;
    SSG_DEVICE S* at(int token) const {
      return global_place<S>(data + static_cast<int64_t>(static_cast<uint32_t>(token)) * stride);
    }
    SSG_DEVICE S load(int token) const { return *at(token); }
  };
  SSG_DEVICE Column column_of(const Logits& logits) const {
    const S* data = static_cast<const S*>(logits.data) + batch * logits.batch_stride + column;
    return {here(global_address(data)), here(logits.token_stride * static_cast<int64_t>(sizeof(S)))};
  }

  // Calls f with each output token and its place. Whole: all of them are there.
  template <bool Whole, class F>
  static SSG_DEVICE void each_token(const Tokens (&tokens)[at_once], F&& f) {
    SSG_UNROLL
    for (int n = 0; n < at_once; ++n) {
      if (!Whole && tokens[n].at[0] < 0) continue;
      SSG_UNROLL
      for (int side = 0; side < 4; ++side)
        if (Whole || side == 0 || tokens[n].at[side] >= 0) f(tokens[n].at[side], n, side);
    }
  }

  template <bool Whole>
  SSG_DEVICE void fetch(const Tokens (&tokens)[at_once], S (&current)[2][at_once][4]) const {
    if (p.call.current[0].data == nullptr) return;
    SSG_UNROLL
    for (int source = 0; source < 2; ++source) {
      if (source == p.call.sources) return;
      const Column from = column_of(p.call.current[source]);
      each_token<Whole>(tokens, [&](int token, int n, int side) { current[source][n][side] = from.load(token); });
    }
  }

  SSG_DEVICE void load_map() const {
    const Column columns[2] = {column_of(p.call.previous[0]), column_of(p.call.previous[1])};
    SSG_UNROLL_BY(1)
    for (int n = warp; n < p.quarter; n += warps) {
      const Tokens tokens = constants<Tokens>(p.coarse)[n];
      if (n < p.counts[0])
        load<true>(tokens, columns, 4 * n);
      else if (n < p.counts[0] + p.counts[1] + p.counts[2])
        load<false>(tokens, columns, 2 * (n + p.counts[0]));
      else
        load<false>(tokens, columns, p.inputs - (p.quarter - n));
    }
  }

  // Whole: the token has all its mirrors, else at most one.
  template <bool Whole>
  SSG_DEVICE void load(const Tokens& tokens, const Column (&columns)[2], int k) const {
    T x[4] = {};
    SSG_UNROLL
    for (int source = 0; source < 2; ++source) {
      if (source == p.call.sources) break;
      S raw[4] = {};
      SSG_UNROLL
      for (int side = 0; side < 4; ++side)
        if (Whole || side == 0 || (side < 3 && tokens.at[side] >= 0)) raw[side] = columns[source].load(tokens.at[side]);
      SSG_UNROLL
      for (int side = 0; side < 4; ++side)
        x[side] = fused_multiply_add(weights.previous[source], T(to_float(raw[side])), x[side]);
    }
    T* to = map + 32 * k;
    if constexpr (Whole) {
      fold(x);
      SSG_UNROLL
      for (int side = 0; side < 4; ++side) store_shared(to + 32 * side, x[side]);
    } else {
      const T other = x[1] + x[2];  // one of them is 0
      store_shared(to, x[0] + other);
      if (tokens.at[1] >= 0 || tokens.at[2] >= 0) store_shared(to + 32, x[0] - other);
    }
  }

  // Of a token and its mirrors along w, along h and along both: the sums and differences, and back.
  static SSG_DEVICE void fold(T (&x)[4]) {
    butterfly(x[0], x[1]);
    butterfly(x[2], x[3]);
    butterfly(x[0], x[2]);
    butterfly(x[1], x[3]);
  }
  static SSG_DEVICE void butterfly(T& a, T& b) {
    const T sum = a + b;
    b = a - b;
    a = sum;
  }

  SSG_DEVICE const Several* coefficients_of(int item) const {
    return constants<Several>(p.coefficients) + item * p.inputs;
  }

  // The loop over them would wait for the second-level cache in every turn. A lane brings a sector.
  SSG_DEVICE void bring_coefficients_near(int item) const {
    const auto* data = reinterpret_cast<const unsigned char*>(coefficients_of(item));
    const int bytes = p.inputs * static_cast<int>(sizeof(Several));
    SSG_UNROLL_BY(1)
    for (int at = thread_index() % 32 * 32; at < bytes + 32; at += 32 * 32)
      bring_near(data + (at < bytes ? at : bytes - 4));
  }

  SSG_DEVICE void multiply(int item, T (&value)[at_once][4]) const {
    const T* x = map;
    const Several* coefficients = coefficients_of(item);
    const auto add = [&](int k, int parity) {
      const T each = load_shared(x + 32 * k);
      const Several c = coefficients[k];
      SSG_UNROLL
      for (int n = 0; n < at_once; ++n) value[n][parity] = fused_multiply_add(c.at[n], each, value[n][parity]);
    };
    const auto step = [&](int by) {
      x += 32 * by;
      coefficients += by;
    };
    SSG_UNROLL_BY(1)
    for (int n = p.counts[0]; n > 0; --n) {
      SSG_UNROLL
      for (int side = 0; side < 4; ++side) add(side, side);
      step(4);
    }
    SSG_UNROLL_BY(1)
    for (int n = p.counts[1]; n > 0; --n) {
      add(0, 0);
      add(1, 1);
      step(2);
    }
    SSG_UNROLL_BY(1)
    for (int n = p.counts[2]; n > 0; --n) {
      add(0, 0);
      add(1, 2);
      step(2);
    }
    SSG_UNROLL_BY(1)
    for (int n = p.counts[3]; n > 0; --n) {
      add(0, 0);
      step(1);
    }
  }

  template <bool Whole>
  SSG_DEVICE void write(const Tokens (&tokens)[at_once], const S (&current)[2][at_once][4],
                        T (&value)[at_once][4]) const {
    SSG_UNROLL
    for (int n = 0; n < at_once; ++n) fold(value[n]);
    // Without logits of this scale, `current` and its weights are 0.
    SSG_UNROLL
    for (int source = 0; source < 2; ++source) {
      if (source == p.call.sources) break;
      SSG_UNROLL
      for (int n = 0; n < at_once; ++n) {
        SSG_UNROLL
        for (int side = 0; side < 4; ++side)
          value[n][side] =
              fused_multiply_add(weights.current[source], T(to_float(current[source][n][side])), value[n][side]);
      }
    }
    const Column out = column_of(p.call.out);
    each_token<Whole>(tokens, [&](int token, int n, int side) {
      const T logit = to_float(current[0][n][side]);
      from_float(*const_cast<S*>(out.at(token)), is_minus_infinity(logit) ? logit : value[n][side]);
    });
  }
};

}  // namespace ssg::cuda
