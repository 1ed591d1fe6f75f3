// Sampling from short rows: a thread draws a row.
#pragma once

#include "sample_row.h"

namespace ssg::cuda {

template <class S, int N>
struct SampleFew {
  using R = Row<S>;
  using Value = typename R::Value;

  static SSG_DEVICE void run(const SampleParams& p) {
    const int64_t r = block_index() * thread_count() + thread_index();
    if (r < p.rows) p.call.out[r] = draw(R(p, r), static_cast<int>(p.call.vocabulary));
  }

  static SSG_DEVICE int64_t draw(const R& row, int columns) {
    Value x[N];
    Value largest = R::value(R::kMinusInfinity);
    SSG_UNROLL
    for (int v = 0; v < N; ++v) {
      x[v] = R::value(v < columns ? row.bits(v) : R::kMinusInfinity);
      largest = larger(largest, x[v]);
    }
    if (!row.has_answer(largest)) return -1;
    const Weigher<Value> weigher(largest, row.scale);
    const int64_t most_kept = row.top_k > 0 ? row.top_k : N;
    uint64_t weights[N];
    uint64_t total = 0;
    if (N == 2) {  // one of them is the largest
      const uint64_t less = weigher.weight(x[0] < x[1] ? x[0] : x[1]);
      for (int v = 0; v < N; ++v) weights[v] = x[v] == largest ? kMostWeight : less;
    }
    SSG_UNROLL
    for (int v = 0; v < N; ++v) {
      if (N > 2) weights[v] = weigher.weight(x[v]);
      int greater = 0;
      SSG_UNROLL
      for (int u = 0; u < N; ++u) greater += x[u] > x[v];
      if (greater >= most_kept) weights[v] = 0;
      total += weights[v];
    }
    if (row.top_p > 0) {
      const uint64_t stays = total - part_of(total, kWhole - row.top_p);
      uint64_t all[N];
      SSG_UNROLL
      for (int v = 0; v < N; ++v) all[v] = weights[v];
      total = 0;
      SSG_UNROLL
      for (int v = 0; v < N; ++v) {
        uint64_t above = 0;
        SSG_UNROLL
        for (int u = 0; u < N; ++u)
          if (x[u] > x[v] || (x[u] == x[v] && u > v)) above += all[u];
        if (above >= stays) weights[v] = 0;
        total += weights[v];
      }
    }
    const uint64_t target = part_of(total, row.uniform);
    int token = 0;
    uint64_t running = 0;
    SSG_UNROLL
    for (int v = 0; v + 1 < N; ++v) {
      running += weights[v];
      token += running <= target;
    }
    return token;
  }
};

}  // namespace ssg::cuda
