// The guidance step as one kernel. A block takes a strip of vocabulary columns of one sample:
//   map     the coarse map is loaded, merged (cfg), scaled and brought to even/odd coordinates, [j][i][column]
//   slots   for a group of output row pairs: contraction along h, [row][slot][column]
//   output  contraction along w, to which the epilogue adds the logits of this scale
// The logits of a group arrive by asynchronous copies, a group ahead. Only the result is written to memory.
#pragma once

#include "device.h"
#include "engines.h"
#include "params.h"
#include "strength.h"

namespace ssg::cuda {

// (1 + beta)(1 + t), -(1 + beta) t, -beta (1 + t'), beta t': what the sources are multiplied by.
template <class T>
struct Weights {
  T current[2];
  T previous[2];
};

template <class T>
SSG_DEVICE Weights<T> read_weights(const Step& step, int64_t batch) {
  const double beta = read_strength(step.beta, batch);
  if (step.current[0].data == nullptr) return {{T(0), T(0)}, {static_cast<T>(beta), T(0)}};
  if (step.sources == 1) return {{static_cast<T>(1 + beta), T(0)}, {static_cast<T>(-beta), T(0)}};
  const double t = read_strength(step.cfg, batch);
  const double prev_t = read_strength(step.prev_cfg, batch);
  return {{static_cast<T>((1 + beta) * (1 + t)), static_cast<T>(-(1 + beta) * t)},
          {static_cast<T>(-beta * (1 + prev_t)), static_cast<T>(beta * prev_t)}};
}

template <class T>
SSG_DEVICE bool is_minus_infinity(T x) {
  return x < (sizeof(T) == 8 ? T(-1.7976931348623157e308) : T(-3.402823466e38f));
}

SSG_DEVICE int divide(int n, const Divisor& by) {
  return by.divisor == 1 ? n : static_cast<int>(multiply_high(static_cast<uint32_t>(n), by.factor));
}

// S: what logits are stored as. First, Second: the engines of the two contractions.
template <class S, class First, class Second>
struct Guided {
  using T = typename First::Type;
  static constexpr int columns = First::columns;
  static_assert(First::columns == Second::columns);
  static constexpr int per_chunk = 16 / static_cast<int>(sizeof(S));  // elements of a 16-byte access
  static constexpr int chunk_log = sizeof(S) == 8 ? 1 : sizeof(S) == 4 ? 2 : 3;
  using Chunk = Vec<S, per_chunk>;

  const Params& p;
  Swizzle swizzle;
  T* map;
  T* slots;
  T* coefficients;
  unsigned char* stage;

  int thread;
  int threads;
  int lane;
  int warp;
  int warps;

  int64_t batch;
  int64_t column;  // first of the strip
  int valid;       // columns of the strip that exist
  Weights<T> weights;

  static SSG_DEVICE void run(const Params& p) {
    unsigned char* memory = shared_memory();
    Guided block{p,
                 {p.swizzle_shift, p.swizzle_mask},
                 reinterpret_cast<T*>(memory),
                 reinterpret_cast<T*>(memory + p.slots_at),
                 reinterpret_cast<T*>(memory + p.coefficients_at),
                 memory + p.stage_at,
                 thread_index(),
                 thread_count(),
                 thread_index() % 32,
                 thread_index() / 32,
                 thread_count() / 32,
                 0,
                 0,
                 0,
                 {}};
    block.work(static_cast<int>(block_index()));
  }

  SSG_DEVICE void work(int index) {
    // Neighbouring blocks take neighbouring columns, whose rows share pages of memory.
    const int split = index / p.strips % p.splits;
    batch = index / p.strips / p.splits;
    column = static_cast<int64_t>(index % p.strips) * p.columns;
    const int64_t left = p.step.vocabulary - column;
    valid = left < p.columns ? static_cast<int>(left) : p.columns;

    const int first = split * p.groups / p.splits;
    const int last = (split + 1) * p.groups / p.splits;
    weights = read_weights<T>(p.step, batch);
    // One instance of each stage: the code of a block that does little should be small too.
    SSG_UNROLL_BY(1)
    for (int group = first - 1; group < last; ++group) {
      if (group >= first) {
        if (!p.one_row) fill_slots(group);
        copy_async_wait();
        barrier();  // the slots, the logits
      }
      if (group + 1 < last) fetch(group + 1, (group + 1 - first) % 2);
      if (group < first) {
        load_map();
        if (First::shared_coefficients) load_coefficients();
      } else {
        write_rows(group, (group - first) % 2);
      }
      barrier();  // the map and the coefficients; from then on, the slots may be overwritten
    }
  }

  // ---- loading

  SSG_DEVICE const S* at(const Logits& logits, int64_t token, int offset) const {
    return static_cast<const S*>(logits.data) + batch * logits.batch_stride + token * logits.token_stride + column +
           offset;
  }

  SSG_DEVICE int group_pairs(int group) const {
    const int left = p.pairs_h - group * p.group_pairs;
    return left < p.group_pairs ? left : p.group_pairs;
  }

  // The output row of a group's local row, or -1 for the mirror of a middle row, which is that row.
  SSG_DEVICE int output_row(int group, int local) const {
    const int pair = group * p.group_pairs + (local >> (p.sides_h - 1));
    if ((local & (p.sides_h - 1)) == 0) return pair;
    const int mirror = p.out_h - 1 - pair;
    return mirror == pair ? -1 : mirror;
  }

  SSG_DEVICE int source_bytes() const { return p.step.sources == 2 ? p.stage_bytes / 2 : p.stage_bytes; }
  // 16-byte runs of a token's columns: a power of two.
  SSG_DEVICE int chunks_log() const { return p.columns_log - chunk_log; }

  // Starts copying the logits of a group's rows: [source][local row][output column][column].
  SSG_DEVICE void fetch(int group, int buffer) {
    if (p.step.current[0].data == nullptr) return;
    const int count = (group_pairs(group) * p.sides_h * p.out_w) << chunks_log();
    SSG_UNROLL_BY(1)
    for (int source = 0; source < p.step.sources; ++source) {
      S* to = reinterpret_cast<S*>(stage + buffer * p.stage_bytes + source * source_bytes());
      SSG_UNROLL_BY(1)
      for (int i = thread; i < count; i += threads) {
        const int offset = (i & ((1 << chunks_log()) - 1)) * per_chunk;
        const int token = i >> chunks_log();
        const int local = divide(token, p.by_out_w);
        const int row = output_row(group, local);
        if (row < 0 || offset >= valid) continue;
        const S* from = at(p.step.current[source], row * p.out_w + token - local * p.out_w, offset);
        S* chunk = to + token * p.columns + offset;
        if (p.current_aligned && offset + per_chunk <= valid) {
          copy_async_16(chunk, from);
        } else {
          SSG_UNROLL_BY(1)
          for (int e = 0; e < per_chunk && offset + e < valid; ++e) chunk[e] = from[e];
        }
      }
    }
    copy_async_commit();
  }

  using Values = Vec<T, per_chunk>;

  SSG_DEVICE void store_coarse(int i, int j, int offset, const Values& value) const {
    constexpr int width = 16 / static_cast<int>(sizeof(T));
    T* to = map + (j * (p.in_h.even + p.in_h.odd) + i) * p.columns;
    SSG_UNROLL
    for (int e = 0; e < per_chunk; e += width) {
      Vec<T, width> part;
      SSG_UNROLL
      for (int k = 0; k < width; ++k) part.at[k] = value.at[e + k];
      store_shared(reinterpret_cast<Vec<T, width>*>(to + swizzle(i, offset + e)), part);
    }
  }

  static SSG_DEVICE void butterfly(Values& a, Values& b) {
    SSG_UNROLL
    for (int e = 0; e < per_chunk; ++e) {
      const T sum = a.at[e] + b.at[e];
      b.at[e] = a.at[e] - b.at[e];
      a.at[e] = sum;
    }
  }

  // A coarse token, its mirrors along w and h, and along both, are loaded together, and become sums and differences.
  SSG_DEVICE void load_map() const {
    const int count = (p.in_h.even * p.in_w.even) << chunks_log();
    const int in_h = p.in_h.even + p.in_h.odd;
    const int in_w = p.in_w.even + p.in_w.odd;
    SSG_UNROLL_BY(1)
    for (int n = thread; n < count; n += threads) {
      const int offset = (n & ((1 << chunks_log()) - 1)) * per_chunk;
      const int token = n >> chunks_log();
      const int i = divide(token, p.by_in_w_even);
      const int j = token - i * p.in_w.even;
      const bool pair_h = i < p.in_h.odd;
      const bool pair_w = j < p.in_w.odd;
      // A middle row or column has no mirror; its own values stand in, and the difference is not stored.
      const int mirror_i = pair_h ? in_h - 1 - i : i;
      const int mirror_j = pair_w ? in_w - 1 - j : j;
      const int tokens[4] = {i * in_w + j, i * in_w + mirror_j, mirror_i * in_w + j, mirror_i * in_w + mirror_j};
      Values sum[4];
      SSG_UNROLL
      for (int t = 0; t < 4; ++t) {
        SSG_UNROLL
        for (int e = 0; e < per_chunk; ++e) sum[t].at[e] = T(0);
      }
      SSG_UNROLL_BY(1)
      for (int source = 0; source < p.step.sources; ++source) {
        const Logits& from = p.step.previous[source];
        const S* base = at(from, 0, offset);
        const T weight = source == 0 ? weights.previous[0] : weights.previous[1];
        if (p.previous_aligned && offset + per_chunk <= valid) {
          Chunk chunk[4];
          SSG_UNROLL
          for (int t = 0; t < 4; ++t)
            chunk[t] = load_once(reinterpret_cast<const Chunk*>(base + tokens[t] * from.token_stride));
          SSG_UNROLL
          for (int t = 0; t < 4; ++t) {
            SSG_UNROLL
            for (int e = 0; e < per_chunk; ++e)
              sum[t].at[e] = fused_multiply_add(weight, T(to_float(chunk[t].at[e])), sum[t].at[e]);
          }
        } else {
          SSG_UNROLL
          for (int e = 0; e < per_chunk; ++e) {
            if (offset + e >= valid) break;
            SSG_UNROLL
            for (int t = 0; t < 4; ++t) {
              const T x = to_float(base[tokens[t] * from.token_stride + e]);
              sum[t].at[e] = fused_multiply_add(weight, x, sum[t].at[e]);
            }
          }
        }
      }
      Values& ee = sum[0];
      Values& eo = sum[1];
      Values& oe = sum[2];
      Values& oo = sum[3];
      if (pair_w) {
        butterfly(ee, eo);
        butterfly(oe, oo);
      }
      if (pair_h) {
        butterfly(ee, oe);
        butterfly(eo, oo);
        store_coarse(p.in_h.even + i, j, offset, oe);
        if (pair_w) store_coarse(p.in_h.even + i, p.in_w.even + j, offset, oo);
      }
      if (pair_w) store_coarse(i, p.in_w.even + j, offset, eo);
      store_coarse(i, j, offset, ee);
    }
  }

  // [second contraction's][the first's, group by group]
  SSG_DEVICE void load_coefficients() const {
    const int second = second_coefficients();
    copy_coefficients(coefficients, p.w, second);
    if (!p.one_row) copy_coefficients(coefficients + second, p.h, p.groups * p.h.group);
  }
  SSG_DEVICE int second_coefficients() const { return p.terms * (p.in_w.even + p.in_w.odd) * p.w.rows; }

  SSG_DEVICE void copy_coefficients(T* to, const Coefficients& from, int count) const {
    constexpr int width = 16 / static_cast<int>(sizeof(T));
    using Part = Vec<T, width>;
    const T* data = static_cast<const T*>(from.data);
    for (int n = thread * width; n < count; n += threads * width)
      store_shared(reinterpret_cast<Part*>(to + n), load_cached(reinterpret_cast<const Part*>(data + n)));
  }

  // ---- first contraction

  SSG_DEVICE void fill_slots(int group) const {
    const int in_h = p.in_h.even + p.in_h.odd;
    const int in_w = p.in_w.even + p.in_w.odd;
    const int rows = group_pairs(group) * p.terms;
    const Lane own = First::lane(lane, p.lanes_h);
    const int v = (warp & ((1 << p.column_warps_log) - 1)) * 8 * columns + own.column;
    Coefficients h = p.h;
    h.data = static_cast<const T*>(p.h.data) + group * p.h.group;
    const T* shared = coefficients + second_coefficients() + group * p.h.group;
    SSG_UNROLL_BY(1)
    for (int item = warp >> p.column_warps_log; item < p.row_tiles * p.map_tiles; item += warps >> p.column_warps_log) {
      const int map_tile = divide(item, p.by_row_tiles);
      const int row_tile = item - map_tile * p.row_tiles;
      const int j = map_tile * own.tile_maps + own.map;
      const T* data[First::maps];
      SSG_UNROLL
      for (int m = 0; m < First::maps; ++m) data[m] = map + (j + m < in_w ? j + m : in_w - 1) * in_h * p.columns;
      const auto source = First::source(h, shared, row_tile, own, lane);
      const auto even = First::multiply(data, 0, p.in_h.even, p.columns, source, v, swizzle, lane);
      const auto odd = First::multiply(data, p.in_h.even, p.in_h.odd, p.columns, First::odd(source, h, p.in_h.even), v,
                                       swizzle, lane);
      SSG_UNROLL
      for (int m = 0; m < First::maps; ++m) {
        SSG_UNROLL
        for (int r = 0; r < First::rows; ++r) {
          const int row = row_tile * own.tile_rows + First::row(own, r);
          const int pair = divide(row, p.by_terms);
          if (row < rows && j + m < in_w) put_slot(pair, row - pair * p.terms, j + m, v, even, odd, m, r);
        }
      }
    }
  }

  using Products = typename First::Result;
  SSG_DEVICE void put_slot(int pair, int term, int j, int v, const Products& even, const Products& odd, int m,
                           int r) const {
    const int slot =
        j < p.in_w.even ? term * p.in_w.even + j : p.terms * p.in_w.even + term * p.in_w.odd + j - p.in_w.even;
    const int row_stride = p.terms * (p.in_w.even + p.in_w.odd) * p.columns;
    T* to = slots + pair * p.sides_h * row_stride + slot * p.columns + swizzle(slot, v);
    Vec<T, columns> sum;
    Vec<T, columns> difference;
    SSG_UNROLL
    for (int c = 0; c < columns; ++c) {
      const T e = even.at[m][r][c];
      const T o = odd.at[m][r][c];
      sum.at[c] = e + o;
      difference.at[c] = e - o;
    }
    store_shared(reinterpret_cast<Vec<T, columns>*>(to), sum);
    if (p.sides_h == 2) store_shared(reinterpret_cast<Vec<T, columns>*>(to + row_stride), difference);
  }

  // ---- second contraction

  SSG_DEVICE void write_rows(int group, int buffer) const {
    const int rows = p.one_row ? 1 : group_pairs(group) * p.sides_h;
    const int slots_even = p.terms * p.in_w.even;
    const int slots_odd = p.terms * p.in_w.odd;
    const T* from = p.one_row ? map : slots;
    const Lane own = Second::lane(lane, p.lanes_w);
    const int v = (warp & ((1 << p.column_warps_log) - 1)) * 8 * columns + own.column;
    const int row_tiles = (rows + own.tile_maps - 1) >> own.tile_maps_log;
    SSG_UNROLL_BY(1)
    for (int item = warp >> p.column_warps_log; item < p.pair_tiles * row_tiles; item += warps >> p.column_warps_log) {
      const int row_tile = divide(item, p.by_pair_tiles);
      const int pair_tile = item - row_tile * p.pair_tiles;
      const int local = row_tile * own.tile_maps + own.map;
      const T* data[Second::maps];
      SSG_UNROLL
      for (int m = 0; m < Second::maps; ++m)
        data[m] = from + (local + m < rows ? local + m : 0) * (slots_even + slots_odd) * p.columns;
      const auto source = Second::source(p.w, coefficients, pair_tile, own, lane);
      const auto even = Second::multiply(data, 0, slots_even, p.columns, source, v, swizzle, lane);
      const auto odd = Second::multiply(data, slots_even, slots_odd, p.columns, Second::odd(source, p.w, slots_even), v,
                                        swizzle, lane);
      SSG_UNROLL
      for (int m = 0; m < Second::maps; ++m) {
        const int row = local + m < rows ? output_row(group, local + m) : -1;
        if (row < 0 || v >= valid) continue;
        const Line line = line_of(row, local + m, buffer, v);
        SSG_UNROLL
        for (int r = 0; r < Second::rows; ++r) {
          const int pair = pair_tile * own.tile_rows + Second::row(own, r);
          if (pair >= p.pairs_w) continue;
          Few sum;
          Few difference;
          SSG_UNROLL
          for (int c = 0; c < columns; ++c) {
            const T e = even.at[m][r][c];
            const T o = odd.at[m][r][c];
            sum.at[c] = e + o;
            difference.at[c] = e - o;
          }
          const int mirror = p.out_w - 1 - pair;
          finish(line, pair, v, sum);
          if (p.sides_w == 2 && mirror != pair) finish(line, mirror, v, difference);
        }
      }
    }
  }

  // ---- epilogue

  using Few = Vec<T, columns>;
  using Stored = Vec<S, columns>;

  // This thread's columns of one output row.
  struct Line {
    const S* logits;  // in shared memory
    S* out;
  };
  SSG_DEVICE Line line_of(int row, int local, int buffer, int v) const {
    const S* logits = reinterpret_cast<const S*>(stage + buffer * p.stage_bytes) + local * p.out_w * p.columns + v;
    return {logits, const_cast<S*>(at(p.step.out, row * p.out_w, v))};
  }

  SSG_DEVICE void finish(const Line& line, int c, int v, Few& value) const {
    if (p.step.current[0].data != nullptr) {
      const S* from = line.logits + (c << p.columns_log);
      const Stored logit = load_shared(reinterpret_cast<const Stored*>(from));
      SSG_UNROLL
      for (int e = 0; e < columns; ++e)
        value.at[e] = fused_multiply_add(weights.current[0], T(to_float(logit.at[e])), value.at[e]);
      if (p.step.sources == 2) {
        const auto* second = reinterpret_cast<const unsigned char*>(from) + p.stage_bytes / 2;
        const Stored other = load_shared(reinterpret_cast<const Stored*>(second));
        SSG_UNROLL
        for (int e = 0; e < columns; ++e)
          value.at[e] = fused_multiply_add(weights.current[1], T(to_float(other.at[e])), value.at[e]);
      }
      SSG_UNROLL
      for (int e = 0; e < columns; ++e) {
        const T x = to_float(logit.at[e]);
        if (is_minus_infinity(x)) value.at[e] = x;
      }
    }
    S* to = line.out + c * p.step.out.token_stride;
    Stored out;
    SSG_UNROLL
    for (int e = 0; e < columns; ++e) from_float(out.at[e], value.at[e]);
    if (p.out_aligned && v + columns <= valid) {
      store_global(reinterpret_cast<Stored*>(to), out);
    } else {
      SSG_UNROLL
      for (int e = 0; e < columns; ++e)
        if (v + e < valid) to[e] = out.at[e];
    }
  }
};

// The general form: a block takes one token after another, its threads the columns.
template <class S, class T>
SSG_DEVICE void run_direct(const DirectParams& p) {
  const Step& step = p.step;
  const int tokens = p.out_h * p.out_w;
  int token = static_cast<int>(block_index()) % tokens;
  for (int64_t batch = static_cast<int>(block_index()) / tokens; batch < step.batch;) {
    const int row = token / p.out_w;
    const int c = token % p.out_w;
    const Weights<T> weights = read_weights<T>(step, batch);
    const auto place = [&](const Logits& logits) {
      return static_cast<const S*>(logits.data) + batch * logits.batch_stride + token * logits.token_stride;
    };
    for (int64_t v = thread_index(); v < step.vocabulary; v += thread_count()) {
      T sum = T(0);
      SSG_UNROLL_BY(1)
      for (int source = 0; source < step.sources; ++source) {
        const Logits& from = step.previous[source];
        const T weight = source == 0 ? weights.previous[0] : weights.previous[1];
        const S* x = static_cast<const S*>(from.data) + batch * from.batch_stride + v;
        for (int term = 0; term < p.terms; ++term) {
          const T* h = static_cast<const T*>(p.h) + (static_cast<int64_t>(term) * p.out_h + row) * p.in_h;
          const T* w = static_cast<const T*>(p.w) + (static_cast<int64_t>(term) * p.out_w + c) * p.in_w;
          for (int i = 0; i < p.in_h; ++i) {
            if (h[i] == T(0)) continue;  // most of an interpolation's factor
            T inner = T(0);
            const S* at = x + static_cast<int64_t>(i) * p.in_w * from.token_stride;
            for (int j = 0; j < p.in_w; ++j, at += from.token_stride)
              inner = fused_multiply_add(w[j], T(to_float(*at)), inner);
            sum = fused_multiply_add(weight * h[i], inner, sum);
          }
        }
      }
      if (step.current[0].data != nullptr) {
        const T logit = to_float(place(step.current[0])[v]);
        sum = fused_multiply_add(weights.current[0], logit, sum);
        if (step.sources == 2)
          sum = fused_multiply_add(weights.current[1], T(to_float(place(step.current[1])[v])), sum);
        if (is_minus_infinity(logit)) sum = logit;
      }
      from_float(const_cast<S*>(place(step.out))[v], sum);
    }
    for (token += static_cast<int>(block_count()); token >= tokens; token -= tokens) ++batch;
  }
}

}  // namespace ssg::cuda
