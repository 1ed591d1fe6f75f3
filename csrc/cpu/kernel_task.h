// What the kernel does with one task: a run of vocabulary columns of one sample, or some of their output rows.
// Included inside one namespace per instruction set; see kernel_impl.h.
#pragma once

#include <algorithm>
#include <cstring>
#include <limits>

#include "kernel.h"
#include "kernel_expand.h"
#include "scratch.h"
#include "vector.h"

namespace ssg::cpu::SSG_NAMESPACE {

// Outputs above this go past the cache: they would evict the logits that are still to be read.
constexpr int64_t kStreamBytes = int64_t{2} << 20;

// Sources: how many current logits there are, 0 (the prior's part alone), 1, or 2 (conditional and unconditional).
template <class T, class S, int Sources>
class Task {
 public:
  static constexpr int64_t strip = Strip<T>::width;

  Task(const Plan<T>& plan, const GuidedCall& call, const Split& split) : plan_(plan), call_(call), split_(split) {
    // Steps from token to token. The plan's h may be the grid's w.
    in_step_h_ = plan.swapped ? 1 : plan.in_w;
    in_step_w_ = plan.swapped ? plan.in_h : 1;
    out_step_h_ = plan.swapped ? 1 : plan.out_w;
    out_step_w_ = plan.swapped ? plan.out_h : 1;
    const Layout layout = layout_of(plan);
    row_stride_ = layout.row_stride * strip;
    slots_stride_ = layout.slots_stride * strip;
    map_size_ = layout.map * strip;
    strip_stride_ = layout.strip() * strip;
    const int64_t begun = split.finished * layout.outputs * strip;
    map_ = static_cast<T*>(
        scratch().get(static_cast<size_t>(split.visit * strip_stride_ + begun + layout.temporary * strip) * sizeof(T)));
    slots_ = map_ + map_size_ + layout.addend * strip;
    begun_ = map_ + split.visit * strip_stride_;
    temporary_ = begun_ + begun;
    const int64_t bytes = call.batch * plan.out_h * plan.out_w * call.vocabulary * static_cast<int64_t>(sizeof(S));
    const auto aligned = [](int64_t elements) { return elements * static_cast<int64_t>(sizeof(S)) % 64 == 0; };
    stream_ = strip * sizeof(S) % 64 == 0 && bytes >= kStreamBytes &&
              reinterpret_cast<uintptr_t>(call.out.data) % 64 == 0 && aligned(call.out.token_stride) &&
              aligned(call.out.batch_stride) && call.out.data != call.current[0].data;
  }

  void run(Tasks& tasks, int64_t worker) {
    for (int64_t task = tasks.take(worker); task >= 0; task = tasks.take(worker)) run(task);
    store_fence();
  }

 private:
  static const S* at(const Logits& logits, int64_t batch, int64_t column) {
    return static_cast<const S*>(logits.data) + batch * logits.batch_stride + column;
  }

  void run(int64_t task) {
    const int64_t batch = task / split_.row_groups / split_.column_groups;
    const int64_t begin = task / split_.row_groups % split_.column_groups * split_.strips * strip;
    const int64_t end = std::min(begin + split_.strips * strip, call_.vocabulary);
    const int64_t row_group = task % split_.row_groups;
    const int64_t first = row_group * plan_.row_groups() / split_.row_groups;
    const int64_t last = (row_group + 1) * plan_.row_groups() / split_.row_groups;
    for (int64_t column = begin; column < end; column += split_.visit * strip) {
      open(batch, column, std::min(split_.visit * strip, end - column));
      prepare();
      for (int64_t group = first; group < last; ++group) write_group(group, group + 1 < last ? group + 1 : -1);
    }
  }

  // Takes up a visit: its columns, weights and logits.
  void open(int64_t batch, int64_t column, int64_t columns) {
    strips_ = (columns + strip - 1) / strip;
    full_ = columns / strip;
    partial_ = columns % strip;
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

  // kernel_prepare.h

  static constexpr int64_t kColumns = Layout::kColumns;
  template <class Get>
  SSG_INLINE void fill_maps(T* maps, int64_t strips, int64_t pairs_h, int64_t pairs_w, const Get& get) const;
  // Loads the coarse map of each strip and makes of it what the rows need.
  void prepare();
  void take_entries(T* map);
  void lift(T* map, T* addend);
  void to_spectrum(T* map);

  // kernel_write.h

  void write_group(int64_t group, int64_t next_group) const;
  void write(int64_t row, const T* slots, int64_t next_row) const;
  struct Tokens;
  struct Part;
  using Finish = void (*)(const void* part, int64_t first, int64_t strips);
  Finish finish_of(int64_t taps) const;
  static constexpr int kMostTaps = 8;  // whose places the loop over tokens keeps
  // Adds to strips of a part `Count` rows of the banded part, or more than kMostTaps of them, and the logits.
  template <int Count, bool Several>
  static void finish(const void* part, int64_t first, int64_t strips);
  SSG_INLINE void fetch(const Tokens& tokens, int64_t g, int64_t strips) const;
  static SSG_INLINE Strip<T> guided(Strip<T> value, const S* const (&current)[2], const T (&weights)[2]);
  __attribute__((noinline)) void finish_partial(const Strip<T>& value, const S* const (&current)[2], S* out) const;

  const Plan<T>& plan_;
  const GuidedCall& call_;
  const Split& split_;
  int64_t in_step_h_;
  int64_t in_step_w_;
  int64_t out_step_h_;
  int64_t out_step_w_;
  int64_t row_stride_;
  int64_t slots_stride_;
  int64_t map_size_;
  int64_t strip_stride_;
  bool stream_;
  T* map_;    // [strip of the visit]: the map [row][column], the addend [row][column of the output], and
  T* slots_;  // the slots [row of the group][slot]; all of them strips
  T* begun_;  // [output]: the dense part of some tokens
  T* temporary_;

  int64_t strips_ = 0;
  int64_t full_ = 0;
  int64_t partial_ = 0;
  T weight_[4] = {};
  const S* current_[2] = {};
  const S* previous_[2] = {};
  S* out_ = nullptr;
};

}  // namespace ssg::cpu::SSG_NAMESPACE

#include "kernel_prepare.h"
#include "kernel_write.h"
