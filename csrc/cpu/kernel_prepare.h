// The kernel: from the coarse map of a strip to what its rows are made of.
// Included inside one namespace per instruction set; see kernel_impl.h.
#pragma once

#include "kernel_task.h"

namespace ssg::cpu::SSG_NAMESPACE {

template <class T>
SSG_INLINE void butterfly(Strip<T>& a, Strip<T>& b) {
  const Strip<T> sum = a.plus(b);
  b = a.minus(b);
  a = sum;
}

// Fills the maps of some strips from get(strip, row, column), and folds pairs of rows and of columns. A token's strips
// are taken one after the other: memory serves long runs faster.
template <class T, class S, int Sources>
template <class Get>
SSG_INLINE void Task<T, S, Sources>::fill_maps(T* maps, int64_t strips, int64_t pairs_h, int64_t pairs_w,
                                               const Get& get) const {
  const int64_t rows = plan_.in_h;
  const int64_t columns = plan_.in_w;
  const int64_t slots = plan_.row;
  const int64_t row_stride = row_stride_;
  const int64_t step = strip_stride_;
  for (int64_t i = 0; i < rows - pairs_h; ++i) {
    T* row = maps + i * row_stride;
    T* mirror = maps + (rows - 1 - i) * row_stride;
    const int64_t other = rows - 1 - i;
    for (int64_t j = 0; j < pairs_w; ++j) {
      int64_t left = j * strip;
      int64_t right = (slots - 1 - j) * strip;
      for (int64_t g = 0; g < strips; ++g, left += step, right += step) {
        Strip<T> a = get(g, i, j);
        Strip<T> b = get(g, i, columns - 1 - j);
        butterfly(a, b);
        if (i < pairs_h) {
          Strip<T> c = get(g, other, j);
          Strip<T> d = get(g, other, columns - 1 - j);
          butterfly(c, d);
          butterfly(a, c);
          butterfly(b, d);
          a.store(mirror + right);
          b.store(mirror + left);
          c.store(row + right);
          d.store(row + left);
        } else {
          a.store(row + right);
          b.store(row + left);
        }
      }
    }
    for (int64_t j = pairs_w; j < columns - pairs_w; ++j) {
      int64_t at = (pairs_w > 0 ? slots - columns + j : j) * strip;
      for (int64_t g = 0; g < strips; ++g, at += step) {
        Strip<T> a = get(g, i, j);
        if (i < pairs_h) {
          Strip<T> c = get(g, other, j);
          butterfly(a, c);
          a.store(mirror + at);
          c.store(row + at);
        } else {
          a.store(row + at);
        }
      }
    }
  }
}

template <class T, class S, int Sources>
inline void Task<T, S, Sources>::prepare() {
  // What the loop needs lies in variables of its own: a store to the map could change a member.
  constexpr int kPrevious = Sources == 2 ? 2 : 1;
  int64_t step_h[kPrevious];
  int64_t step_w[kPrevious];
  T weight[kPrevious];
  for (int s = 0; s < kPrevious; ++s) {
    step_h[s] = in_step_h_ * call_.previous[s].token_stride;
    step_w[s] = in_step_w_ * call_.previous[s].token_stride;
    weight[s] = weight_[kPrevious + s];
  }
  const bool takes_entries = plan_.has_addend() && plan_.lifted == 0;
  const int64_t pairs_h = takes_entries ? 0 : plan_.pairs_h;
  const int64_t pairs_w = takes_entries ? 0 : plan_.pairs_w;
  const int64_t strips = strips_;
  const int64_t full = full_;
  const auto bytes = static_cast<size_t>(partial_) * sizeof(S);
  const S* from[kPrevious];
  for (int s = 0; s < kPrevious; ++s) from[s] = previous_[s];
  const auto load = [&](const S* logits, int64_t g) SSG_INLINE_LAMBDA {
    if (__builtin_expect(g < full, 1)) return Convert<T, S>::load(logits + g * strip);
    alignas(64) S padded[strip] = {};
    std::memcpy(padded, logits + g * strip, bytes);
    return Convert<T, S>::load(padded);
  };
  fill_maps(map_, strips, pairs_h, pairs_w, [&](int64_t g, int64_t i, int64_t j) SSG_INLINE_LAMBDA {
    Strip<T> value = load(from[0] + i * step_h[0] + j * step_w[0], g).times(weight[0]);
    if constexpr (kPrevious == 2) value.multiply_add(weight[1], load(from[1] + i * step_h[1] + j * step_w[1], g));
    return value;
  });
  T* map = map_;
  for (int64_t g = 0; g < strips; ++g, map += strip_stride_) {
    if (takes_entries) take_entries(map);
    if (plan_.lifted > 0) lift(map, map + map_size_);
    if (!plan_.groups.empty()) to_spectrum(map);
  }
}

template <class T, class S, int Sources>
inline void Task<T, S, Sources>::take_entries(T* map) {
  const int64_t length = plan_.out_w * strip;
  for (int64_t i = 0; i < plan_.in_h; ++i)
    take<T>(plan_.w_taps, plan_.out_w, map + i * row_stride_, nullptr, map + map_size_ + i * length);
  if (plan_.pairs_h + plan_.pairs_w == 0) return;
  const int64_t row_stride = row_stride_;
  fill_maps(map, 1, plan_.pairs_h, plan_.pairs_w, [&](int64_t, int64_t i, int64_t j) SSG_INLINE_LAMBDA {
    return Strip<T>::load(map + i * row_stride + j * strip);
  });
}

template <class T, class S, int Sources>
inline void Task<T, S, Sources>::lift(T* map, T* addend) {
  const int64_t length = plan_.in_w * strip;
  // The columns of the map itself lie on both sides of those that are appended.
  const int64_t begins[2] = {0, plan_.pairs_w > 0 ? plan_.row - plan_.in_w + plan_.pairs_w : plan_.in_w};
  const int64_t counts[2] = {plan_.pairs_w > 0 ? plan_.pairs_w : plan_.in_w,
                             plan_.pairs_w > 0 ? plan_.in_w - plan_.pairs_w : 0};
  for (int part = 0; part < 2; ++part)
    transform(plan_.lift_h, Streams<T>{map + begins[part] * strip, row_stride_, strip, counts[part]},
              temporary_ + part * counts[0] * strip, length, strip);
  for (int64_t k = 0; k < plan_.lifted; ++k) {
    T* row = temporary_ + k * length;
    for (int64_t j = 0; j < plan_.pairs_w; ++j) {  // unfolds
      T* left = row + j * strip;
      T* right = row + (plan_.in_w - 1 - j) * strip;
      Strip<T> even = Strip<T>::load(right);
      Strip<T> odd = Strip<T>::load(left);
      butterfly(even, odd);
      even.store(left);
      odd.store(right);
    }
    take<T>(plan_.w_taps, plan_.out_w, row, nullptr, addend + k * plan_.out_w * strip);
  }
  transform(plan_.lift_w, Streams<T>{map, strip, row_stride_, plan_.in_h}, map, strip, row_stride_);
}

// Copies `n` entries and folds them.
template <class T>
inline void fold(const T* x, int64_t stride, int64_t n, int64_t folds, T* to) {
  constexpr int64_t strip = Strip<T>::width;
  const auto at = [&](int64_t i) SSG_INLINE_LAMBDA { return Strip<T>::load(x + i * stride); };
  const auto put = [&](int64_t i, const Strip<T>& value) SSG_INLINE_LAMBDA { value.store(to + i * strip); };
  if (folds == 2) {
    for (int64_t t = 0; t < n / 4; ++t) {
      Strip<T> a = at(t);
      Strip<T> b = at(n / 2 - 1 - t);
      Strip<T> c = at(n / 2 + t);
      Strip<T> d = at(n - 1 - t);
      butterfly(a, d);
      butterfly(b, c);
      butterfly(a, b);
      put(t, d);
      put(n / 2 - 1 - t, c);
      put(n / 2 + t, b);
      put(n - 1 - t, a);
    }
    return;
  }
  for (int64_t t = 0; t < n / 2; ++t) {
    Strip<T> a = at(t);
    Strip<T> b = at(n - 1 - t);
    butterfly(a, b);
    put(t, b);
    put(n - 1 - t, a);
  }
  if (n % 2 != 0) put(n / 2, at(n / 2));
}

template <class T, class S, int Sources>
inline void Task<T, S, Sources>::to_spectrum(T* map) {
  T* entries = temporary_;
  for (int64_t j = 0; j < plan_.in_w; j += kColumns) {
    const int64_t columns = std::min(kColumns, plan_.in_w - j);
    for (int64_t c = 0; c < columns; ++c)
      fold<T>(map + (j + c) * strip, row_stride_, plan_.in_h, plan_.folds_h, entries + c * plan_.in_h * strip);
    transform(plan_.spectrum_h, Streams<T>{entries, strip, plan_.in_h * strip, columns}, map + j * strip, row_stride_,
              strip);
  }
  const int64_t length = plan_.w.in() * strip;  // of a row's spectrum
  for (const auto& group : plan_.groups) {
    const auto rows = static_cast<int64_t>(group.size());
    T* spectrum = entries + rows * plan_.in_w * strip;
    T* mixed = spectrum + rows * length;
    for (int64_t b = 0; b < rows; ++b)
      fold<T>(map + group[static_cast<size_t>(b)] * row_stride_, strip, plan_.in_w, plan_.folds_w,
              entries + b * plan_.in_w * strip);
    transform(plan_.spectrum_w, Streams<T>{entries, strip, plan_.in_w * strip, rows}, spectrum, strip, length);
    for (int64_t b = 0; b < rows; ++b) {
      const int64_t row = group[static_cast<size_t>(b)];
      mix<T>(plan_.bracket_h, row, spectrum, length, mixed);
      take<T>(plan_.bracket_w, plan_.w.in(), mixed, spectrum + b * length, map + row * row_stride_);
    }
  }
}

}  // namespace ssg::cpu::SSG_NAMESPACE
