// What the kernel does with one task: a few strips of vocabulary columns of one sample, or a group of their rows.
// Included inside one namespace per instruction set; see kernel_impl.h.
#pragma once

#include <algorithm>
#include <cstring>
#include <limits>

#include "kernel.h"
#include "scratch.h"
#include "vector.h"

namespace ssg::cpu::SSG_NAMESPACE {

#if SSG_VECTOR_BYTES == 64 || defined(__aarch64__)
constexpr int kMaxRows = 6;  // 6 rows x (even, odd) x 2 vectors = 24 of 32 registers
#else
constexpr int kMaxRows = 3;  // 12 of 16
#endif

// Outputs above this go past the cache: they would evict the logits that are still to be read.
constexpr int64_t kStreamBytes = int64_t{8} << 20;

// Sources: how many current logits there are, 0 (the prior's part alone), 1, or 2 (conditional and unconditional).
template <class T, class S, int Sources>
class Task {
 public:
  static constexpr int64_t strip = Strip<T>::width;

  Task(const Plan<T>& plan, const GuidedCall& call, const Split& split) : plan_(plan), call_(call), split_(split) {
    // An even number of cache lines per row would map a column's rows to a few cache sets.
    row_stride_ = (plan.w.in | 1) * strip;
    map_stride_ = plan.h.in * row_stride_;
    // The dense form has one row, whose slots are the map itself.
    const bool dense = plan.form == Form::dense;
    slots_stride_ = dense ? map_stride_ : 2 * plan.block_pairs * plan.slots * strip;
    const int64_t staged = (Sources + 1) * plan.w.out * strip;
    const int64_t maps = split.strips * map_stride_;
    const int64_t slots = dense ? 0 : split.strips * slots_stride_;
    map_ = static_cast<T*>(
        scratch().get(static_cast<size_t>(maps + slots) * sizeof(T) + static_cast<size_t>(staged) * sizeof(S)));
    slots_ = dense ? map_ : map_ + maps;
    staged_ = reinterpret_cast<S*>(map_ + maps + slots);
    const int64_t bytes = call.batch * plan.h.out * plan.w.out * call.vocabulary * static_cast<int64_t>(sizeof(S));
    const auto aligned = [](int64_t elements) { return elements * static_cast<int64_t>(sizeof(S)) % 64 == 0; };
    stream_ = strip * sizeof(S) % 64 == 0 && bytes >= kStreamBytes &&
              reinterpret_cast<uintptr_t>(call.out.data) % 64 == 0 && aligned(call.out.token_stride) &&
              aligned(call.out.batch_stride) && call.out.data != call.current[0].data;
  }

  void run(int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t row_group = task % split_.row_groups;
      open(task);
      // The next task's coarse map is fetched meanwhile, unless it is this one's.
      const bool stays = row_group + 1 < split_.row_groups || task + 1 >= end;
      next_bytes_ = 0;
      if (!stays) expect(task + 1);
      load_map();
      const int64_t first = row_group * plan_.blocks / split_.row_groups;
      const int64_t last = (row_group + 1) * plan_.blocks / split_.row_groups;
      for (int64_t block = first; block < last; ++block) {
        prefetch_previous(block);
        if (plan_.form == Form::separable) fill_slots(block);
        for (int64_t pair = block * plan_.block_pairs; pair < block_end(block); ++pair) {
          const T* slots = slots_ + 2 * (pair - block * plan_.block_pairs) * plan_.slots * strip;
          write_row(pair, slots);
          if (plan_.h.mirror(pair) != pair) write_row(plan_.h.mirror(pair), slots + plan_.slots * strip);
        }
      }
    }
    store_fence();
  }

 private:
  static const S* at(const Logits& logits, int64_t batch, int64_t column) {
    return static_cast<const S*>(logits.data) + batch * logits.batch_stride + column;
  }

  int64_t batch_of(int64_t task) const { return task / split_.row_groups / split_.column_groups; }
  int64_t column_of(int64_t task) const {
    return task / split_.row_groups % split_.column_groups * split_.strips * strip;
  }
  int64_t columns_from(int64_t column) const { return std::min(split_.strips * strip, call_.vocabulary - column); }

  // Takes up a task: its columns, weights and logits.
  void open(int64_t task) {
    const int64_t batch = batch_of(task);
    const int64_t column = column_of(task);
    full_ = columns_from(column) / strip;
    partial_ = columns_from(column) % strip;
    for (int64_t s = 0; s < 2 * call_.sources; ++s) {
      const double weight = call_.weights[batch * 2 * call_.sources + s];
      weight_[s] = weight == weight ? static_cast<T>(weight) : std::numeric_limits<T>::quiet_NaN();
    }
    for (int64_t s = 0; s < call_.sources; ++s) {
      if (Sources > 0) current_[s] = at(call_.current[s], batch, column);
      previous_[s] = at(call_.previous[s], batch, column);
    }
    out_ = const_cast<S*>(at(call_.out, batch, column));
  }

  // Says which coarse map `prefetch_previous` is to fetch.
  void expect(int64_t task) {
    next_bytes_ = columns_from(column_of(task)) * static_cast<int64_t>(sizeof(S));
    for (int64_t s = 0; s < call_.sources; ++s)
      next_previous_[s] = at(call_.previous[s], batch_of(task), column_of(task));
  }

  int64_t block_end(int64_t block) const { return std::min((block + 1) * plan_.block_pairs, plan_.h.pairs()); }

  // Strips of this task. The end of the vocabulary may cut the last one short.
  int64_t strips() const { return full_ + (partial_ > 0); }

  // Loading, kernel_load.h

  SSG_INLINE Strip<T> load_previous(const S* from, int64_t g) const;
  SSG_INLINE Strip<T> load_coarse(int64_t i, int64_t j, int64_t g) const;
  // a, b = a + b, a - b
  static SSG_INLINE void butterfly(Strip<T>& a, Strip<T>& b);
  void load_map();
  template <int Write>
  static SSG_INLINE void prefetch(const S* from, int64_t bytes);
  // Fetches a share of the next task's coarse map. Its rows lie far apart, where no hardware prefetcher follows, so the
  // fetches are spread over the blocks of this task.
  void prefetch_previous(int64_t block) const;

  // First contraction, kernel_fill.h

  SSG_INLINE int64_t slot_of(int64_t term, int64_t j) const;
  // p + q goes to the slots of an output row, p - q to those of its mirror.
  SSG_INLINE void put_slots(T* to, const Strip<T>& p, const Strip<T>& q) const;
  template <int R>
  void fill_dense(const Chunk& chunk) const;
  void fill_banded(int64_t first, int64_t pairs, int64_t term, const Taps<T>& taps) const;
  void fill_slots(int64_t block) const;

  // Second contraction, kernel_write.h

  // One output row's logits: in place, or staged where the end of the vocabulary cuts the strip short.
  struct Row {
    const S* current[2];
    int64_t current_stride[2];
    S* out;
    int64_t out_stride;
    int64_t to_next;  // tokens to the row that follows, 0 for none
    bool stream;      // write past the cache
  };

  // Where the tokens of some output pairs lie, and those of their mirrors.
  template <int N>
  struct Tokens {
    int64_t at[2 * N];
    void set(const Axis& axis, int64_t first, int64_t count, int64_t shift, int64_t stride) {
      for (int64_t r = 0; r < count; ++r) {
        at[2 * r] = (shift + first + r) * stride;
        at[2 * r + 1] = (shift + axis.mirror(first + r)) * stride;
      }
    }
  };

  void write_row(int64_t row, const T* slots) const;
  void write_strips(const Row& row, const T* slots, int64_t count) const;
  template <int R>
  void write_chunk(const Row& row, const Chunk& chunk, const T* slots, int64_t count, const Chunk* next,
                   int64_t to_next) const;
  SSG_INLINE void finish(const Row& row, int64_t from, int64_t from_other, int64_t to, Strip<T> value) const;

  const Plan<T>& plan_;
  const GuidedCall& call_;
  const Split& split_;
  int64_t row_stride_;
  int64_t map_stride_;
  int64_t slots_stride_;
  bool stream_;
  T* map_;    // [strip of the task][coarse row][coarse column][strip]
  T* slots_;  // [strip of the task][output row of the block][slot][strip]
  S* staged_;

  int64_t full_ = 0;
  int64_t partial_ = 0;
  T weight_[4] = {};
  const S* current_[2] = {};
  const S* previous_[2] = {};
  const S* next_previous_[2] = {};
  int64_t next_bytes_ = 0;
  S* out_ = nullptr;
};

}  // namespace ssg::cpu::SSG_NAMESPACE

#include "kernel_fill.h"
#include "kernel_load.h"
#include "kernel_write.h"
