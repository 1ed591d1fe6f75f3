// The two engines. Each computes c[row][column] += sum_k coefficient[k][row] * data[k][column] for a warp. The data lie
// in shared memory, and their columns are vocabulary columns. A warp covers 8 * Columns columns. A thread has `Columns`
// neighbouring columns, `maps` data maps (coarse columns in the first contraction, output rows in the second) and
// `rows` rows of coefficients.
#pragma once

#include "device.h"
#include "params.h"
#include "tiles.h"

namespace ssg::cuda {

// Where the columns of slot k lie. Runs of 8 columns are exchanged, so that the four k that a quarter warp of the MMA
// engine reads at once lie in different banks.
struct Swizzle {
  int shift;
  int mask;
  SSG_DEVICE int operator()(int k, int column) const { return column ^ (((k >> shift) & mask) << 3); }
};

template <class T, int Maps, int Rows, int Columns>
struct Sum {
  T at[Maps][Rows][Columns];
  SSG_DEVICE void clear() {
    SSG_UNROLL
    for (int m = 0; m < Maps; ++m) {
      SSG_UNROLL
      for (int r = 0; r < Rows; ++r) {
        SSG_UNROLL
        for (int c = 0; c < Columns; ++c) at[m][r][c] = T(0);
      }
    }
  }
};

// A thread's share of a product's rows.
struct Lane {
  int column;     // first column within the warp's
  int row;        // first row of coefficients within the warp's
  int map;        // first data map within the warp's
  int tile_rows;  // rows and maps that the warp covers
  int tile_maps;
  int tile_maps_log;
};

// Fused multiply-adds. Of the four quarter warps, 2^lanes_log lie along the rows of coefficients, the others along the
// maps. For each k a thread issues 4 * Columns multiply-adds and two 128-bit loads. A load serves several lanes and
// takes two wavefronts, so at Columns = 4 arithmetic and shared memory take equally long.
template <class T, int Columns_>
struct Fma {
  using Type = T;
  static constexpr int columns = Columns_;
  static constexpr int rows = kFmaRows;
  static constexpr int maps = 1;
  static constexpr bool shared_coefficients = stages_coefficients(Engine::fma, columns);
  using Result = Sum<T, maps, rows, columns>;

  static SSG_DEVICE Lane lane(int lane, int lanes_log) {
    // Neighbouring lanes share their data, lanes that are 2 or 4 apart their coefficients: the hardware serves equal
    // loads of such lanes together.
    const int quarter = (lane & 1) | ((lane >> 4) << 1);
    return {((lane >> 1) & 7) * columns,
            (quarter & ((1 << lanes_log) - 1)) * rows,
            quarter >> lanes_log,
            rows << lanes_log,
            4 >> lanes_log,
            2 - lanes_log};
  }
  static SSG_DEVICE int row(const Lane& lane, int r) { return lane.row + r; }

  // The coefficients of this thread's rows, k by k.
  struct Source {
    const T* at;
    int distance;
  };
  static SSG_DEVICE Source source(const Coefficients& c, const T* shared, int tile, const Lane& lane, int) {
    const int row = tile * lane.tile_rows + lane.row;
    return {(shared_coefficients ? shared : static_cast<const T*>(c.data)) + (row < c.rows ? row : 0), c.rows};
  }
  static SSG_DEVICE Source odd(const Source& source, const Coefficients&, int even) {
    return {source.at + even * source.distance, source.distance};
  }

  // The product over `count` slots from `first` on.
  static SSG_DEVICE Result multiply(const T* const (&data)[maps], int first, int count, int stride,
                                    const Source& source, int column, const Swizzle&, int) {
    Result sum;
    sum.clear();
    using Columns = Vec<T, columns>;
    using Rows = Vec<T, sizeof(T) == 8 ? 2 : 4>;  // 16 bytes
    constexpr int per_load = sizeof(T) == 8 ? 2 : 4;
    const T* x = data[0] + first * stride + column;
    const T* coefficient = source.at;
    SSG_UNROLL_BY(4)
    for (int k = 0; k < count; ++k, x += stride, coefficient += source.distance) {
      const Columns value = load_shared(reinterpret_cast<const Columns*>(x));
      SSG_UNROLL
      for (int part = 0; part < rows / per_load; ++part) {
        const Rows* from = reinterpret_cast<const Rows*>(coefficient) + part;
        const Rows c = shared_coefficients ? load_shared(from) : load_cached(from);
        SSG_UNROLL
        for (int r = 0; r < per_load; ++r) {
          SSG_UNROLL
          for (int v = 0; v < columns; ++v) {
            T& to = sum.at[0][part * per_load + r][v];
            to = fused_multiply_add(c.at[r], value.at[v], to);
          }
        }
      }
    }
    return sum;
  }
};

// A float32 number as the sum of two tf32 numbers, accurate to 22 bits: `high` is rounded to nearest, `low` is the
// rest. A NaN may become a zero in `high`, but it stays in `low`.
struct Split {
  float high;
  float low;
  explicit SSG_DEVICE Split(float x) : high(float_of((bits_of(x) + 0x1000u) & 0xffffe000u)), low(x - high) {}
};

// Tensor cores. Both operands are split into two tf32 numbers, and the product is high * high + high * low + low *
// high; the two small products are summed apart. The data are the m side of the instruction (16 = two columns of each
// of 8 threads), the coefficients, which were split when they were packed, are the n side.
template <int Columns_, int Maps, int Chunks>
struct Mma {
  using Type = float;
  static constexpr int columns = Columns_;
  static constexpr int chunks = Chunks;  // of 8 rows of coefficients
  static constexpr int rows = 2 * Chunks;
  static constexpr int maps = Maps;
  static constexpr bool shared_coefficients = stages_coefficients(Engine::mma, columns);
  static_assert(columns % 2 == 0 && (maps == 1 || maps == 2 || maps == 4));

  using Result = Sum<float, maps, rows, columns>;

  static SSG_DEVICE Lane lane(int lane, int) {
    return {lane / 4 * columns, lane % 4 * 2, 0, kMmaRows * chunks, maps, maps == 4 ? 2 : maps - 1};
  }
  static SSG_DEVICE int row(const Lane& lane, int r) { return lane.row + r / 2 * 8 + r % 2; }

  using Fragment = Vec<float, 4>;  // high(k = l), high(k = l + 4), low(l), low(l + 4) of row g
  struct Source {
    const Fragment* at[chunks];
  };
  static SSG_DEVICE Source source(const Coefficients& c, const float*, int tile, const Lane&, int lane) {
    Source source;
    SSG_UNROLL
    for (int n = 0; n < chunks; ++n) {
      const int chunk = tile * chunks + n < c.rows ? tile * chunks + n : 0;
      source.at[n] = static_cast<const Fragment*>(c.data) + chunk * (c.even_steps + c.odd_steps) * 32 + lane;
    }
    return source;
  }
  static SSG_DEVICE Source odd(Source source, const Coefficients& c, int) {
    SSG_UNROLL
    for (int n = 0; n < chunks; ++n) source.at[n] += c.even_steps * 32;
    return source;
  }

  // One step of 8 k, or of 4 where Wide is false. a and b are the k of this thread.
  template <bool Wide>
  static SSG_DEVICE void step(Result& large, Result& small, const float* const (&data)[maps], int a, int b, int stride,
                              const Source& source, int at, int column, const Swizzle& swizzle) {
    using Columns = Vec<float, columns>;
    Fragment fragment[chunks];
    SSG_UNROLL
    for (int n = 0; n < chunks; ++n) fragment[n] = load_cached(source.at[n] + at * 32);
    SSG_UNROLL
    for (int m = 0; m < maps; ++m) {
      const Columns x = load_shared(reinterpret_cast<const Columns*>(data[m] + a * stride + swizzle(a, column)));
      Columns y = x;
      if (Wide) y = load_shared(reinterpret_cast<const Columns*>(data[m] + b * stride + swizzle(b, column)));
      SSG_UNROLL
      for (int v = 0; v < columns; v += 2) {
        const Split x0(x.at[v]);
        const Split x1(x.at[v + 1]);
        const Split y0(y.at[v]);
        const Split y1(y.at[v + 1]);
        SSG_UNROLL
        for (int n = 0; n < chunks; ++n) {
          const Fragment& f = fragment[n];
          float l[4];
          float s[4];
          exchange(large, l, m, n, v, false);
          exchange(small, s, m, n, v, false);
          if (Wide) {
            mma_16x8x8(s, x0.low, x1.low, y0.low, y1.low, f.at[0], f.at[1]);
            mma_16x8x8(s, x0.high, x1.high, y0.high, y1.high, f.at[2], f.at[3]);
            mma_16x8x8(l, x0.high, x1.high, y0.high, y1.high, f.at[0], f.at[1]);
          } else {
            mma_16x8x4(s, x0.low, x1.low, f.at[0]);
            mma_16x8x4(s, x0.high, x1.high, f.at[2]);
            mma_16x8x4(l, x0.high, x1.high, f.at[0]);
          }
          exchange(large, l, m, n, v, true);
          exchange(small, s, m, n, v, true);
        }
      }
    }
  }

  // Moves the four sums of an instruction between its registers and the result.
  static SSG_DEVICE void exchange(Result& sum, float (&c)[4], int m, int n, int v, bool back) {
    SSG_UNROLL
    for (int i = 0; i < 4; ++i) {
      float& named = sum.at[m][2 * n + i % 2][v + i / 2];
      if (back)
        named = c[i];
      else
        c[i] = named;
    }
  }

  static SSG_DEVICE Result multiply(const float* const (&data)[maps], int first, int count, int stride,
                                    const Source& source, int column, const Swizzle& swizzle, int lane) {
    Result large;
    Result small;
    large.clear();
    small.clear();
    const int l = first + lane % 4;
    const int steps = count / 8;
    converge();
    SSG_UNROLL_BY(1)
    for (int s = 0; s < steps; ++s)
      step<true>(large, small, data, l + 8 * s, l + 8 * s + 4, stride, source, s, column, swizzle);
    // Past the end the coefficients are zero. The data read there belong to this product, so that a column without an
    // infinity or a NaN meets none.
    const int last = first + count - 1;
    const int a = l + 8 * steps;
    if (count % 8 > 4)
      step<true>(large, small, data, a, a + 4 < last ? a + 4 : last, stride, source, steps, column, swizzle);
    else if (count % 8 > 0)
      step<false>(large, small, data, a < last ? a : last, 0, stride, source, steps, column, swizzle);
    SSG_UNROLL
    for (int m = 0; m < maps; ++m) {
      SSG_UNROLL
      for (int r = 0; r < rows; ++r) {
        SSG_UNROLL
        for (int c = 0; c < columns; ++c) large.at[m][r][c] += small.at[m][r][c];
      }
    }
    return large;
  }
};

}  // namespace ssg::cuda
