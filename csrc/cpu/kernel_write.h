// The kernel: the second contraction, from the slots to output rows, and the epilogue.
// Included inside one namespace per instruction set; see kernel_impl.h.
#pragma once

#include "kernel_contract.h"
#include "kernel_task.h"

namespace ssg::cpu::SSG_NAMESPACE {

template <class T, class S, int Sources>
inline void Task<T, S, Sources>::write_row(int64_t row, const T* slots) const {
  const int64_t token = row * plan_.w.out;
  Row at = {};
  for (int s = 0; s < Sources; ++s) {
    at.current[s] = current_[s] + token * call_.current[s].token_stride;
    at.current_stride[s] = call_.current[s].token_stride;
  }
  at.out = out_ + token * call_.out.token_stride;
  at.out_stride = call_.out.token_stride;
  // Rows are written in pairs, from the outermost pair to the middle.
  const bool mirrored = plan_.h.symmetric && 2 * row >= plan_.h.out;
  const bool last = mirrored ? 2 * (row - 1) < plan_.h.out : row + 1 >= plan_.h.pairs();
  at.to_next = last ? 0 : mirrored ? -plan_.w.out : plan_.w.out;
  at.stream = stream_;
  write_strips(at, slots, full_);
  if (partial_ == 0) return;

  const size_t bytes = static_cast<size_t>(partial_) * sizeof(S);
  for (int s = 0; s < Sources; ++s) {
    S* staged = staged_ + (s + 1) * plan_.w.out * strip;
    for (int64_t c = 0; c < plan_.w.out; ++c)
      std::memcpy(staged + c * strip, at.current[s] + full_ * strip + c * at.current_stride[s], bytes);
    at.current[s] = staged;
    at.current_stride[s] = strip;
  }
  S* out = at.out + full_ * strip;
  at.out = staged_;
  at.out_stride = strip;
  at.to_next = 0;
  at.stream = false;
  write_strips(at, slots + full_ * slots_stride_, 1);
  for (int64_t c = 0; c < plan_.w.out; ++c) std::memcpy(out + c * call_.out.token_stride, staged_ + c * strip, bytes);
}

template <class T, class S, int Sources>
inline void Task<T, S, Sources>::write_strips(const Row& row, const T* slots, int64_t count) const {
  const size_t chunks = plan_.w_chunks.size();
  for (size_t c = 0; c < chunks; ++c) {
    const Chunk& chunk = plan_.w_chunks[c];
    // A cache cannot hold the next row, since rows lie far apart and many are long. So the next chunk is fetched.
    const bool wraps = c + 1 == chunks;
    const Chunk* next = wraps && row.to_next == 0 ? nullptr : &plan_.w_chunks[wraps ? 0 : c + 1];
    const int64_t to_next = wraps ? row.to_next : 0;
    switch (chunk.rows) {
      case 1: write_chunk<1>(row, chunk, slots, count, next, to_next); break;
      case 2: write_chunk<2>(row, chunk, slots, count, next, to_next); break;
      case 3: write_chunk<3>(row, chunk, slots, count, next, to_next); break;
      case 4: write_chunk<4>(row, chunk, slots, count, next, to_next); break;
      case 5: write_chunk<5>(row, chunk, slots, count, next, to_next); break;
      case 6: write_chunk<6>(row, chunk, slots, count, next, to_next); break;
    }
  }
}

template <class T, class S, int Sources>
SSG_INLINE void Task<T, S, Sources>::finish(const Row& row, int64_t from, int64_t from_other, int64_t to,
                                            Strip<T> value) const {
  if constexpr (Sources > 0) {
    const Strip<T> logit = Convert<T, S>::load(row.current[0] + from);
    value.multiply_add(weight_[0], logit);
    if constexpr (Sources == 2) value.multiply_add(weight_[1], Convert<T, S>::load(row.current[1] + from_other));
    value.keep_minus_infinity(logit);
  }
  if (row.stream)
    Convert<T, S>::stream(row.out + to, value);
  else
    Convert<T, S>::store(row.out + to, value);
}

template <class T, class S, int Sources>
template <int R>
inline void Task<T, S, Sources>::write_chunk(const Row& row, const Chunk& chunk, const T* slots, int64_t count,
                                             const Chunk* next, int64_t to_next) const {
  const Axis& w = plan_.w;
  Tokens<R> from[2];
  Tokens<R> to;
  Tokens<kMaxRows> fetch[2];
  Tokens<kMaxRows> fetch_out;
  const int64_t fetched = next == nullptr ? 0 : 2 * next->rows;
  for (int s = 0; s < Sources; ++s) {
    from[s].set(w, chunk.begin, R, 0, row.current_stride[s]);
    if (fetched > 0) fetch[s].set(w, next->begin, next->rows, to_next, row.current_stride[s]);
  }
  to.set(w, chunk.begin, R, 0, row.out_stride);
  if (fetched > 0) fetch_out.set(w, next->begin, next->rows, to_next, row.out_stride);

  const Taps<T>& taps = plan_.w_taps;
  const int32_t* index = taps.index.data() + chunk.begin * taps.count();
  const T* tap_coefficient = taps.coefficient.data() + chunk.begin * taps.count();
  const T* coefficient = plan_.w_coefficients.data() + chunk.offset;
  for (int64_t g = 0; g < count; ++g, slots += slots_stride_) {
    const int64_t offset = g * strip;
    for (int64_t c = 0; c < fetched; ++c) {
      for (int s = 0; s < Sources; ++s) prefetch<0>(row.current[s] + fetch[s].at[c] + offset, strip * sizeof(S));
      if (!row.stream) prefetch<1>(row.out + fetch_out.at[c] + offset, strip * sizeof(S));
    }
    Strip<T> p[R];
    Strip<T> q[R];
    unroll<R>([&](auto r) SSG_INLINE_LAMBDA { p[r] = q[r] = Strip<T>::zero(); });
    const T* odd = contract<T, R>(slots, strip, plan_.dense_even, coefficient, p);
    contract<T, R>(slots + plan_.dense_even * strip, strip, plan_.dense_odd, odd, q);
    for (int64_t tap = 0; tap < taps.even; ++tap)
      unroll<R>([&](auto r) SSG_INLINE_LAMBDA {
        const int64_t at = r * taps.count() + tap;
        p[r].multiply_add(tap_coefficient[at], Strip<T>::load(slots + index[at] * strip));
      });
    for (int64_t tap = taps.even; tap < taps.count(); ++tap)
      unroll<R>([&](auto r) SSG_INLINE_LAMBDA {
        const int64_t at = r * taps.count() + tap;
        q[r].multiply_add(tap_coefficient[at], Strip<T>::load(slots + index[at] * strip));
      });
    unroll<R>([&](auto r) SSG_INLINE_LAMBDA {
      const int left = 2 * r;
      const int right = 2 * r + 1;
      finish(row, from[0].at[left] + offset, from[1].at[left] + offset, to.at[left] + offset, p[r].plus(q[r]));
      // The middle output has no mirror.
      if (to.at[right] != to.at[left])
        finish(row, from[0].at[right] + offset, from[1].at[right] + offset, to.at[right] + offset, p[r].minus(q[r]));
    });
  }
}

}  // namespace ssg::cpu::SSG_NAMESPACE
