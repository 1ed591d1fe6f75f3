// The guidance step as one kernel. A block takes a strip of vocabulary columns of one sample, in three stages:
//   map     loads the coarse map, merges the sources, scales, and brings it to even/odd coordinates, [j][i][column]
//   slots   for a group of output row pairs: contracts along h, [row][slot][column]
//   output  contracts along w; the epilogue adds the logits of this scale
// Asynchronous copies bring the logits of a group, one group ahead. Only the result is written to memory.
#pragma once

#include "device.h"
#include "divide.h"
#include "engines.h"
#include "params.h"
#include "strength.h"

namespace ssg::cuda {

// S: what logits are stored as. Product: the engine of the two contractions.
template <class S, class Product>
struct Guided {
  using T = typename Product::Type;
  using Parameters = Params;
  static constexpr int columns = Product::columns;
  static constexpr int threads_at_most = 32 * kMostWarps;
  static constexpr int blocks_at_once = 1;
  static constexpr int per_chunk = 16 / static_cast<int>(sizeof(S));  // elements of a 16-byte access
  static constexpr int chunk_log = sizeof(S) == 8 ? 1 : sizeof(S) == 4 ? 2 : 3;
  using Chunk = Vec<S, per_chunk>;

  const Params& p;
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
  int64_t column;  // the first one of the strip
  int valid;       // how many columns of the strip exist
  Weights<T> weights;

  static SSG_DEVICE void run(const Params& p) {
    unsigned char* memory = shared_memory();
    Guided block{p,
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
    const int64_t left = p.call.vocabulary - column;
    valid = left < p.columns ? static_cast<int>(left) : p.columns;

    const int first = split * p.groups / p.splits;
    const int last = (split + 1) * p.groups / p.splits;
    weights = read_weights<T>(p.call, batch);
    // Each stage is instantiated once, to keep the code small: many blocks do little.
    SSG_UNROLL_BY(1)
    for (int group = first - 1; group < last; ++group) {
      if (group >= first) {
        if (!p.one_row) fill_slots(group);
        copy_async_wait();
        barrier();  // the slots and the logits have arrived
      }
      if (group + 1 < last) fetch(group + 1, (group + 1 - first) % 2);
      if (group < first) {
        load_map();
        if (Product::shared_coefficients) load_coefficients();
      } else {
        write_rows(group, (group - first) % 2);
      }
      barrier();  // the map and the coefficients have arrived, and the slots may be overwritten
    }
  }

  // The strip's columns of a token, from `offset` on.
  SSG_DEVICE const S* at(const Logits& logits, int64_t token, int offset) const {
    return static_cast<const S*>(logits.data) + batch * logits.batch_stride + token * logits.token_stride + column +
           offset;
  }

  SSG_DEVICE int group_pairs(int group) const {
    const int left = p.pairs_h - group * p.group_pairs;
    return left < p.group_pairs ? left : p.group_pairs;
  }

  // The output row of a group's local row. -1 for the mirror of a middle row, which would be that row again.
  SSG_DEVICE int output_row(int group, int local) const {
    const int pair = group * p.group_pairs + (local >> (p.sides_h - 1));
    if ((local & (p.sides_h - 1)) == 0) return pair;
    const int mirror = p.out_h - 1 - pair;
    return mirror == pair ? -1 : mirror;
  }

  // ---- loading, guided_load.h

  using Values = Vec<T, per_chunk>;

  SSG_DEVICE int source_bytes() const { return p.call.sources == 2 ? p.stage_bytes / 2 : p.stage_bytes; }
  // 16-byte runs of a token's columns: a power of two.
  SSG_DEVICE int chunks_log() const { return p.columns_log - chunk_log; }
  SSG_DEVICE int second_coefficients() const { return p.terms * (p.in_w.even + p.in_w.odd) * p.w.rows; }

  // Starts copying the logits of a group's rows: [source][local row][output column][column].
  SSG_DEVICE void fetch(int group, int buffer);
  // Loads each coarse token together with its mirrors along w, along h and along both, and stores sums and differences.
  SSG_DEVICE void load_map() const;
  SSG_DEVICE void store_coarse(int i, int j, int offset, const Values& value) const;
  static SSG_DEVICE void butterfly(Values& a, Values& b);
  // In shared memory: the second contraction's coefficients, then the first one's, group by group.
  SSG_DEVICE void load_coefficients() const;
  SSG_DEVICE void copy_coefficients(T* to, const Coefficients& from, int count) const;

  // ---- the two contractions, guided_contract.h

  using Products = typename Product::Result;

  SSG_DEVICE void fill_slots(int group) const;
  SSG_DEVICE void put_slot(int pair, int term, int j, int v, const Products& even, const Products& odd, int m,
                           int r) const;
  SSG_DEVICE void write_rows(int group, int buffer) const;

  // ---- the epilogue, guided_write.h

  using Few = Vec<T, columns>;
  using Stored = Vec<S, columns>;

  // This thread's columns of one output row.
  struct Line {
    const S* logits;  // in shared memory
    S* out;
  };
  SSG_DEVICE Line line_of(int row, int local, int buffer, int v) const {
    const S* logits = reinterpret_cast<const S*>(stage + buffer * p.stage_bytes) + local * p.out_w * p.columns + v;
    return {logits, const_cast<S*>(at(p.call.out, row * p.out_w, v))};
  }

  // Adds the logits of output column c, and stores.
  SSG_DEVICE void finish(const Line& line, int c, int v, Few& value) const;
};

}  // namespace ssg::cuda

#include "guided_contract.h"
#include "guided_load.h"
#include "guided_write.h"
