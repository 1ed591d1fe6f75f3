// Sampling from short rows: a thread draws a row.
#pragma once

#include "sample_row.h"

namespace ssg::cuda {

// A thread has no memory for the row: what it needs twice it computes twice.
template <class S>
struct SampleFew {
  using Key = typename Row<S>::Key;
  Row<S> row;
  int columns;
  Key lowest;      // the lowest key that top-k keeps
  uint64_t limit;  // top-p removes the columns whose running weight is at most this

  static SSG_DEVICE void run(const SampleCall& call) {
    const int64_t rows = call.batch * call.tokens;
    const int64_t first = block_index() * thread_count() + thread_index();
    for (int64_t r = first; r < rows; r += block_count() * thread_count()) {
      SampleFew few{{call}, static_cast<int>(call.vocabulary), 0, 0};
      few.row.open(r);
      call.out[r] = few.draw();
    }
  }

  SSG_DEVICE int64_t draw() {
    Key low = row.key(0);
    Key high = low;
    for (int v = 1; v < columns; ++v) {
      const Key key = row.key(v);
      low = key < low ? key : low;
      high = key > high ? key : high;
    }
    if (!row.begin(low, high)) return -1;
    lowest = low;
    if (row.top_k > 0) {
      lowest = high;
      for (int v = 0; v < columns; ++v) {
        int greater = 0;
        for (int u = 0; u < columns; ++u) greater += row.key(u) > row.key(v);
        if (greater < row.top_k && row.key(v) < lowest) lowest = row.key(v);
      }
    }
    if (row.top_p > 0) {
      uint64_t all = 0;
      for (int v = 0; v < columns; ++v)
        if (row.key(v) >= lowest) all += row.weight(row.key(v));
      limit = row.limit(all);
    }
    uint64_t total = 0;
    for (int v = 0; v < columns; ++v) total += kept(v);
    const uint64_t target = row.target(total);
    int v = 0;
    for (uint64_t running = kept(0); running <= target && v + 1 < columns; running += kept(v)) ++v;
    return v;
  }

  // The weight of a column, or 0 where a filter removes it.
  SSG_DEVICE uint64_t kept(int v) const {
    const Key key = row.key(v);
    if (key < lowest) return 0;
    const uint64_t weight = row.weight(key);
    if (row.top_p <= 0) return weight;
    uint64_t running = 0;
    for (int u = 0; u < columns; ++u) {
      const Key other = row.key(u);
      if (other >= lowest && (other < key || (other == key && u <= v))) running += row.weight(other);
    }
    return running > limit ? weight : 0;
  }
};

}  // namespace ssg::cuda
