// The kernel: from the prepared maps of a visit to output rows, and the epilogue.
// Included inside one namespace per instruction set; see kernel_impl.h.
#pragma once

#include "kernel_task.h"

namespace ssg::cpu::SSG_NAMESPACE {

template <class T, class S, int Sources>
inline void Task<T, S, Sources>::write_group(int64_t group, int64_t next_group) const {
  if (plan_.h.empty()) return write(group, map_ + group * row_stride_, next_group);
  const Chunk& rows = plan_.h[0].chunks[static_cast<size_t>(group)];
  for (const Columns& columns : plan_.columns) {
    const Expansion<T>& h = plan_.h[static_cast<size_t>(columns.factor)];
    for (int64_t g = 0; g < strips_; ++g) {
      const T* map = map_ + g * strip_stride_;
      T* slots = slots_ + g * strip_stride_;
      expand(h, h.chunks[static_cast<size_t>(group)],
             Streams<T>{map + columns.from * strip, row_stride_, strip, columns.count},
             Store<T>{slots + columns.to * strip, slots_stride_, strip, Places(0, rows.outputs)});
    }
  }
  const T* slots = slots_;
  int64_t row = rows.runs[0].begin;
  for (size_t run = 0; run < rows.runs.size(); ++run)
    for (int64_t i = 0; i < rows.runs[run].count; ++i, slots += slots_stride_) {
      int64_t next = -1;
      if (i + 1 < rows.runs[run].count)
        next = row + 1;
      else if (run + 1 < rows.runs.size() && rows.runs[run + 1].count > 0)
        next = rows.runs[run + 1].begin;
      else if (next_group >= 0)
        next = plan_.h[0].chunks[static_cast<size_t>(next_group)].begin;
      write(row, slots, next);
      row = next;
    }
}

// A run of strips: those of a token, or one strip of the tokens of a row.
template <class T, class S, int Sources>
struct Task<T, S, Sources>::Run {
  int64_t count;
  const T* begun;  // the dense part, or null
  int64_t begun_step;
  const T* addend;  // its row 0
  int64_t addend_step;
  const S* current[2];
  int64_t current_step[2];
  S* out;
  int64_t out_step;
};

// One row. The logits of the next one are fetched meanwhile. A few strips are finished one after the other, along the
// row. Many are finished together, token by token, chunk by chunk.
template <class T, class S, int Sources>
inline void Task<T, S, Sources>::write(int64_t row, const T* slots, int64_t next_row) const {
  const Streams<T> streams = {slots, strip, strip_stride_, strips_};
  const auto chunks = static_cast<int64_t>(plan_.w.chunks.size());
  const bool by_token = strips_ > kFewStrips && chunks > 0;
  for (int64_t c = 0; c < chunks; ++c) {
    prefetch_row(next_row, c, chunks);
    const Chunk& chunk = plan_.w.chunks[static_cast<size_t>(c)];
    const Places places = by_token ? Places(0, chunk.outputs) : Places(chunk.begin, plan_.out_w);
    expand(plan_.w, chunk, streams, Store<T>{row_, strips_ * strip, strip, places});
    if (!by_token) continue;
    const T* begun = row_;
    for (const Chunk::Run& run : chunk.runs)
      for (int64_t i = 0; i < run.count; ++i, begun += strips_ * strip) finish_token(row, run.begin + i, begun);
  }
  if (by_token) return;
  for (int64_t g = 0; g < strips_; ++g) {
    Run run = run_at(row, 0, g, chunks > 0 ? row_ + g * strip : nullptr);
    run.count = plan_.out_w;
    run.begun_step = strips_ * strip;
    run.addend_step = strip;
    for (int s = 0; s < Sources; ++s) run.current_step[s] = out_step_w_ * call_.current[s].token_stride;
    run.out_step = out_step_w_ * call_.out.token_stride;
    finish(row, run, g >= full_);
  }
}

template <class T, class S, int Sources>
inline void Task<T, S, Sources>::finish_token(int64_t row, int64_t column, const T* begun) const {
  Run run = run_at(row, column, 0, begun);
  run.count = full_;
  run.begun_step = run.current_step[0] = run.current_step[1] = run.out_step = strip;
  run.addend_step = strip_stride_;
  finish(row, run, false);
  if (full_ == strips_) return;
  run = run_at(row, column, full_, begun + full_ * strip);
  run.count = 1;
  finish(row, run, true);
}

// Fetches a share of a row's logits. Tokens lie far apart, where no hardware prefetcher follows.
template <class T, class S, int Sources>
inline void Task<T, S, Sources>::prefetch_row(int64_t row, int64_t part, int64_t parts) const {
  if (row < 0) return;
  const int64_t begin = part * plan_.out_w / parts;
  const int64_t end = (part + 1) * plan_.out_w / parts;
  const int64_t bytes = strips_ * strip * static_cast<int64_t>(sizeof(S));
  for (int s = 0; s < Sources; ++s) {
    const S* from = current_[s] + (row * out_step_h_ + begin * out_step_w_) * call_.current[s].token_stride;
    const int64_t step = out_step_w_ * call_.current[s].token_stride;
    for (int64_t c = begin; c < end; ++c, from += step) prefetch(from, bytes);
  }
}

// The run that begins with a strip of a token.
template <class T, class S, int Sources>
SSG_INLINE typename Task<T, S, Sources>::Run Task<T, S, Sources>::run_at(int64_t row, int64_t column, int64_t g,
                                                                         const T* begun) const {
  const int64_t token = row * out_step_h_ + column * out_step_w_;
  Run run = {};
  run.begun = begun;
  run.addend = map_ + map_size_ + g * strip_stride_ + column * strip;
  for (int s = 0; s < Sources; ++s) run.current[s] = current_[s] + token * call_.current[s].token_stride + g * strip;
  run.out = out_ + token * call_.out.token_stride + g * strip;
  return run;
}

template <class T, class S, int Sources>
inline void Task<T, S, Sources>::finish(int64_t row, const Run& run, bool partial) const {
  if (__builtin_expect(partial, 0)) return finish_run<-1, true>(row, run);
  switch (plan_.h_taps.count) {
    case 0: return finish_run<0, false>(row, run);
    case 1: return finish_run<1, false>(row, run);
    case 2: return finish_run<2, false>(row, run);
    case 3: return finish_run<3, false>(row, run);
    case 4: return finish_run<4, false>(row, run);
    default: return finish_run<-1, false>(row, run);
  }
}

template <class T, class S, int Sources>
template <int Count, bool Partial>
inline void Task<T, S, Sources>::finish_run(int64_t row, const Run& run) const {
  // What the loop needs lies in variables of its own: a store of logits could change a member.
  constexpr int kFixed = Count > 0 ? Count : 0;
  const int64_t count = Count < 0 ? plan_.h_taps.count : Count;
  const int64_t length = plan_.out_w * strip;
  const int32_t* index = plan_.h_taps.index.data() + row * count;
  const T* coefficients = plan_.h_taps.coefficient.data() + row * count;
  const bool stream = stream_;
  T coefficient[kFixed + 1];
  const T* taken[kFixed + 1];
  for (int k = 0; k < kFixed; ++k) {
    coefficient[k] = coefficients[k];
    taken[k] = run.addend + index[k] * length;
  }
  const T* begun = run.begun;
  const int64_t begun_step = run.begun_step;
  const int64_t addend_step = run.addend_step;
  const int64_t current_step[2] = {run.current_step[0], run.current_step[1]};
  const int64_t out_step = run.out_step;
  const S* current[2] = {run.current[0], run.current[1]};
  S* out = run.out;
  const T weights[2] = {weight_[0], weight_[1]};
  const int64_t end = run.count;
  int64_t at = 0;
  for (int64_t i = 0; i < end; ++i, at += addend_step) {
    Strip<T> value = Strip<T>::zero();
    if (begun != nullptr) {
      value = Strip<T>::load(begun);
      begun += begun_step;
    }
    unroll<kFixed>([&](auto k)
                       SSG_INLINE_LAMBDA { value.multiply_add(coefficient[k], Strip<T>::load(taken[k] + at)); });
    if constexpr (Count < 0)
      for (int64_t k = 0; k < count; ++k)
        value.multiply_add(coefficients[k], Strip<T>::load(run.addend + index[k] * length + at));
    if constexpr (Partial)
      finish_partial(value, current, out);
    else if (stream)
      Convert<T, S>::stream(out, guided(value, current, weights));
    else
      Convert<T, S>::store(out, guided(value, current, weights));
    for (int s = 0; s < Sources; ++s) current[s] += current_step[s];
    out += out_step;
  }
}

template <class T, class S, int Sources>
SSG_INLINE Strip<T> Task<T, S, Sources>::guided(Strip<T> value, const S* const (&current)[2], const T (&weights)[2]) {
  if constexpr (Sources > 0) {
    const Strip<T> logit = Convert<T, S>::load(current[0]);
    value.multiply_add(weights[0], logit);
    if constexpr (Sources == 2) value.multiply_add(weights[1], Convert<T, S>::load(current[1]));
    value.keep_minus_infinity(logit);
  }
  return value;
}

// Where the vocabulary ends within the strip.
template <class T, class S, int Sources>
void Task<T, S, Sources>::finish_partial(const Strip<T>& value, const S* const (&current)[2], S* out) const {
  alignas(64) S staged[3][strip] = {};
  const size_t bytes = static_cast<size_t>(partial_) * sizeof(S);
  for (int s = 0; s < Sources; ++s) std::memcpy(staged[s], current[s], bytes);
  Convert<T, S>::store(staged[2], guided(value, {staged[0], staged[1]}, {weight_[0], weight_[1]}));
  std::memcpy(out, staged[2], bytes);
}

}  // namespace ssg::cpu::SSG_NAMESPACE
