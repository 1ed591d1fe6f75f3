// The products that everything dense is made of.
// Included inside one namespace per instruction set; see kernel_impl.h.
#pragma once

#include "plan.h"
#include "vector.h"

namespace ssg::cpu::SSG_NAMESPACE {

#if SSG_VECTOR_BYTES == 64 || defined(__aarch64__)
constexpr int kAccumulators = 12;  // strips of 2 vectors: 24 of 32 registers
#else
constexpr int kAccumulators = 6;  // 12 of 16
#endif

// Vectors that are multiplied by the same matrix. Strides count elements of T.
template <class T>
struct Streams {
  const T* x;        // [stream][coordinate]
  int64_t x_stride;  // from coordinate to coordinate
  int64_t x_stream;
  int64_t count;
};

// Orbits g of a chunk have their outputs at first[0] + g, first[1] - g, first[2] - g and first[3] + g, as many of them as
// an orbit has.
struct Places {
  int64_t first[4];
  Places(int64_t begin, int64_t outputs)
      : first{begin, outputs - 1 - begin, outputs / 2 - 1 - begin, outputs / 2 + begin} {}
  static constexpr int64_t sign(int d) { return d == 0 || d == 3 ? 1 : -1; }
};

// Stores outputs.
template <class T>
struct Store {
  T* y;  // [stream][output]
  int64_t stride;
  int64_t stream;
  Places places;
  template <int Directions, int Orbits>
  SSG_INLINE void operator()(int64_t s, const Strip<T> (&values)[Directions][Orbits]) const {
    unroll<Directions>([&](auto d) SSG_INLINE_LAMBDA {
      T* to = y + s * stream + places.first[d] * stride;
      unroll<Orbits>([&](auto g) SSG_INLINE_LAMBDA { values[d][g].store(to + Places::sign(d) * g * stride); });
    });
  }
};

// Stores the outputs of some streams, 2^n of them, then calls finish(context, first stream, streams), and begins anew at
// the same place.
template <class T>
struct StoreAndFinish {
  Store<T> store;
  int64_t mask;  // 2^n - 1
  int64_t last;  // stream
  void (*finish)(const void* context, int64_t first, int64_t streams);
  const void* context;
  template <int Directions, int Orbits>
  SSG_INLINE void operator()(int64_t s, const Strip<T> (&values)[Directions][Orbits]) const {
    const int64_t at = s & mask;
    store(at, values);
    if (at == mask || s == last) finish(context, s - at, at + 1);
  }
};

// sum[r] += sum_k coefficient[k][r] * x[k]. The arguments move on past what was read.
template <class T, int R>
SSG_INLINE void contract(const T*& coefficient, const T*& x, int64_t stride, int64_t length, Strip<T> (&sum)[R]) {
  const auto step = [&](auto) SSG_INLINE_LAMBDA {
    const Strip<T> value = Strip<T>::load(x);
    unroll<R>([&](auto r) SSG_INLINE_LAMBDA { sum[r].multiply_add(coefficient[r], value); });
    x += stride;
    coefficient += R;
  };
  constexpr std::integral_constant<int, 0> kOne{};
  for (; length >= 8; length -= 8) unroll<8>(step);
  switch (length) {
    case 7: step(kOne); [[fallthrough]];
    case 6: step(kOne); [[fallthrough]];
    case 5: step(kOne); [[fallthrough]];
    case 4: step(kOne); [[fallthrough]];
    case 3: step(kOne); [[fallthrough]];
    case 2: step(kOne); [[fallthrough]];
    case 1: step(kOne); [[fallthrough]];
    default: break;
  }
}

template <class T, int R>
SSG_INLINE void clear(Strip<T> (&sum)[R]) {
  unroll<R>([&](auto r) SSG_INLINE_LAMBDA { sum[r] = Strip<T>::zero(); });
}

// Computes `Orbits` orbits of outputs and hands them to put(stream, values[direction][orbit]).
template <class T, int Folds, int Orbits, class Put>
inline void expand_orbits(const Expansion<T>& matrix, const Chunk& chunk, const Streams<T>& streams, const Put& to) {
  // What the loop needs lies in variables of its own: a store could change what it is copied from.
  const Put put = to;
  const int64_t x_stride = streams.x_stride;
  const int64_t x_stream = streams.x_stream;
  const int64_t count = streams.count;
  const int64_t lengths[3] = {matrix.lengths[0], matrix.lengths[1], matrix.lengths[2]};
  const T* const coefficients = matrix.coefficients.data() + chunk.offset;
  const T* from = streams.x;
  for (int64_t s = 0; s < count; ++s, from += x_stream) {
    const T* coefficient = coefficients;
    const T* x = from;
    Strip<T> values[1 << Folds][Orbits];
    if constexpr (Folds == 0) {
      clear(values[0]);
      contract(coefficient, x, x_stride, lengths[0], values[0]);
    } else if constexpr (Folds == 1) {
      Strip<T> odd[Orbits];
      Strip<T> even[Orbits];
      clear(odd);
      clear(even);
      contract(coefficient, x, x_stride, lengths[0], odd);
      contract(coefficient, x, x_stride, lengths[1], even);
      unroll<Orbits>([&](auto g) SSG_INLINE_LAMBDA {
        values[0][g] = even[g].plus(odd[g]);
        values[1][g] = even[g].minus(odd[g]);
      });
    } else {
      Strip<T> odd[2 * Orbits];
      Strip<T> between[Orbits];
      Strip<T> even[Orbits];
      clear(odd);
      clear(between);
      clear(even);
      contract(coefficient, x, x_stride, lengths[0], odd);
      contract(coefficient, x, x_stride, lengths[1], between);
      contract(coefficient, x, x_stride, lengths[2], even);
      unroll<Orbits>([&](auto g) SSG_INLINE_LAMBDA {
        const Strip<T> outer = even[g].plus(between[g]);
        const Strip<T> inner = even[g].minus(between[g]);
        values[0][g] = outer.plus(odd[g]);
        values[1][g] = outer.minus(odd[g]);
        values[2][g] = inner.plus(odd[Orbits + g]);
        values[3][g] = inner.minus(odd[Orbits + g]);
      });
    }
    put(s, values);
  }
}

template <class T, int Folds, int Orbits, class Put>
SSG_INLINE void expand_as(const Expansion<T>& matrix, const Chunk& chunk, const Streams<T>& streams, const Put& put) {
  if constexpr ((Orbits << Folds) <= (Folds == 0 ? 6 : kAccumulators))
    expand_orbits<T, Folds, Orbits>(matrix, chunk, streams, put);
}

template <class T, int Folds, class Put>
SSG_INLINE void expand_folded(const Expansion<T>& matrix, const Chunk& chunk, const Streams<T>& streams,
                              const Put& put) {
  switch (chunk.orbits) {
    case 1: return expand_as<T, Folds, 1>(matrix, chunk, streams, put);
    case 2: return expand_as<T, Folds, 2>(matrix, chunk, streams, put);
    case 3: return expand_as<T, Folds, 3>(matrix, chunk, streams, put);
    case 4: return expand_as<T, Folds, 4>(matrix, chunk, streams, put);
    case 5: return expand_as<T, Folds, 5>(matrix, chunk, streams, put);
    case 6: return expand_as<T, Folds, 6>(matrix, chunk, streams, put);
    default: return;
  }
}

template <class T, class Put>
SSG_INLINE void expand(const Expansion<T>& matrix, const Chunk& chunk, const Streams<T>& streams, const Put& put) {
  switch (matrix.folds) {
    case 0: return expand_folded<T, 0>(matrix, chunk, streams, put);
    case 1: return expand_folded<T, 1>(matrix, chunk, streams, put);
    default: return expand_folded<T, 2>(matrix, chunk, streams, put);
  }
}

// y[stream][output]
template <class T>
inline void transform(const Transform<T>& blocks, const Streams<T>& streams, T* y, int64_t y_stride, int64_t y_stream) {
  for (const Block<T>& block : blocks) {
    Streams<T> part = streams;
    part.x += block.in * streams.x_stride;
    for (const Chunk& chunk : block.matrix.chunks)
      expand(block.matrix, chunk, part,
             Store<T>{y + block.out * y_stride, y_stride, y_stream, Places(chunk.begin, block.matrix.out)});
  }
}

// y[r] (+)= sum_k coefficient[r][k] * x[index[r][k]], for `rows` rows. `Count` is taps.count, or 0 for any.
template <class T, int Count>
inline void take_some(const Taps<T>& taps, int64_t rows, const T* x, const T* begun, T* y) {
  constexpr int64_t strip = Strip<T>::width;
  const int32_t* index = taps.index.data();
  const T* coefficient = taps.coefficient.data();
  const int64_t count = Count > 0 ? Count : taps.count;
  for (int64_t r = 0; r < rows; ++r, index += count, coefficient += count, y += strip) {
    Strip<T> sum = begun == nullptr ? Strip<T>::zero() : Strip<T>::load(begun + r * strip);
    for (int64_t k = 0; k < count; ++k) sum.multiply_add(coefficient[k], Strip<T>::load(x + index[k] * strip));
    sum.store(y);
  }
}

template <class T>
inline void take(const Taps<T>& taps, int64_t rows, const T* x, const T* begun, T* y) {
  switch (taps.count) {
    case 1: return take_some<T, 1>(taps, rows, x, begun, y);
    case 2: return take_some<T, 2>(taps, rows, x, begun, y);
    case 3: return take_some<T, 3>(taps, rows, x, begun, y);
    default: return take_some<T, 0>(taps, rows, x, begun, y);
  }
}

// y = sum_k coefficient[row][k] * x[index[row][k]], where x holds rows of `length` elements.
template <class T, int Count>
inline void mix_some(const Taps<T>& taps, int64_t row, const T* x, int64_t length, T* y) {
  constexpr int64_t strip = Strip<T>::width;
  T coefficient[Count];
  const T* taken[Count];
  for (int k = 0; k < Count; ++k) {
    coefficient[k] = taps.coefficient[static_cast<size_t>(row * Count + k)];
    taken[k] = x + taps.index[static_cast<size_t>(row * Count + k)] * length;
  }
  for (int64_t at = 0; at < length; at += strip) {
    Strip<T> sum = Strip<T>::zero();
    unroll<Count>([&](auto k) SSG_INLINE_LAMBDA { sum.multiply_add(coefficient[k], Strip<T>::load(taken[k] + at)); });
    sum.store(y + at);
  }
}

// Its count is that of the closed groups at most.
template <class T>
inline void mix(const Taps<T>& taps, int64_t row, const T* x, int64_t length, T* y) {
  static_assert(kMostMixed == 4);
  switch (taps.count) {
    case 1: return mix_some<T, 1>(taps, row, x, length, y);
    case 2: return mix_some<T, 2>(taps, row, x, length, y);
    case 3: return mix_some<T, 3>(taps, row, x, length, y);
    case 4: return mix_some<T, 4>(taps, row, x, length, y);
    default: return;
  }
}

}  // namespace ssg::cpu::SSG_NAMESPACE
