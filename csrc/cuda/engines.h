// The FMA engine. It computes c[row][column] += sum_k coefficient[k][row] * data[k][column] for a warp. The data lie
// in shared memory, and their columns are vocabulary columns. A warp covers 8 * Columns columns. A thread has `Columns`
// neighbouring columns, `maps` data maps (coarse columns in the first contraction, output rows in the second) and
// `rows` rows of coefficients.
#pragma once

#include "device.h"
#include "params.h"
#include "tiles.h"

namespace ssg::cuda {

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
  static constexpr bool shared_coefficients = stages_coefficients(columns);
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
  static SSG_DEVICE Source source(const Coefficients& c, const T* shared, int tile, const Lane& lane) {
    const int row = tile * lane.tile_rows + lane.row;
    return {(shared_coefficients ? shared : static_cast<const T*>(c.data)) + (row < c.rows ? row : 0), c.rows};
  }
  static SSG_DEVICE Source odd(const Source& source, const Coefficients&, int even) {
    return {source.at + even * source.distance, source.distance};
  }

  // The product over `count` slots from `first` on.
  static SSG_DEVICE Result multiply(const T* const (&data)[maps], int first, int count, int stride,
                                    const Source& source, int column) {
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

}  // namespace ssg::cuda
