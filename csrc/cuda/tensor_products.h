// The MMA engine: products of fragments, of all vocabulary columns of a strip at once.
#pragma once

#include "device.h"

namespace ssg::cuda {

// Chunk c of row k, where each row has `Chunks` of them: neighbouring rows fill lines of 128 bytes, and the chunks of
// a row are exchanged with the number of its line. Adding 8 to k adds 8 rows to the address. Adding 4 to the k of a
// slot adds 4 rows and exchanges the high with the low part.
template <int Chunks>
SSG_DEVICE uint32_t chunk_at(uint32_t k, uint32_t c) {
  constexpr uint32_t rows = 8 / Chunks;  // in a line
  const uint32_t line = k / rows;
  return line * 128 + (k % rows * Chunks + (c ^ (line % Chunks))) * 16;
}

// 16 k of data in shared memory: N parts of each value, all columns of the strip.
template <int N, int Tiles>
struct Data {
  uint32_t b[N][Tiles][2];
};
// `at` has the address of this lane's row, for each pair of chunks; `exchanged`: the low part comes first.
template <int N, int Tiles>
SSG_DEVICE void load_data(Data<N, Tiles>& data, const uint32_t (&at)[(N * Tiles + 1) / 2], uint32_t offset,
                          bool exchanged = false) {
  if constexpr (N * Tiles == 1) {
    load_matrices(at[0] + offset, data.b[0][0]);
  } else {
    SSG_UNROLL
    for (int pair = 0; pair < N * Tiles / 2; ++pair) {
      uint32_t r[4];
      load_matrices(at[pair] + offset, r);
      SSG_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int chunk = 2 * pair + i / 2;
        data.b[exchanged ? N - 1 - chunk / Tiles : chunk / Tiles][chunk % Tiles][i % 2] = r[i];
      }
    }
  }
}

using Fragment = Vec<uint32_t, 4>;
struct Coefficient {
  Fragment high;
  Fragment low;
};
// The fragments of a step lie one after the other, four words a lane.
SSG_DEVICE Coefficient load_coefficient(const Fragment* lane, int step) {
  return {lane[step * 64], lane[step * 64 + 32]};
}

// sum += coefficient * data, over all 16 k or the first 8; the small products first.
template <int N, int Tiles>
SSG_DEVICE void multiply(float (&sum)[Tiles][4], const Coefficient& a, const Data<N, Tiles>& data, bool half) {
  const auto add = [&](const Fragment& part, const uint32_t (&b)[Tiles][2]) {
    SSG_UNROLL
    for (int t = 0; t < Tiles; ++t) {
      if (half)
        mma_16x8x8(sum[t], part.at[0], part.at[1], b[t][0]);
      else
        mma_16x8x16(sum[t], part, b[t][0], b[t][1]);
    }
  };
  add(a.low, data.b[0]);
  if constexpr (N == 2) add(a.high, data.b[1]);
  add(a.high, data.b[0]);
}

template <int N, int Tiles>
SSG_DEVICE void clear(float (&sum)[N][Tiles][4]) {
  SSG_UNROLL
  for (int n = 0; n < N; ++n) {
    SSG_UNROLL
    for (int t = 0; t < Tiles; ++t) {
      SSG_UNROLL
      for (int i = 0; i < 4; ++i) sum[n][t][i] = 0.0f;
    }
  }
}

// Splits four sums of an instruction: the high parts, and by a product with -I what is left. It is exact.
SSG_DEVICE void split_sums(float (&x)[4], uint32_t minus_identity, uint32_t (&high)[2], uint32_t (&low)[2]) {
  high[0] = pack_float16(x[0], x[1]);
  high[1] = pack_float16(x[2], x[3]);
  mma_16x8x8(x, high[0], high[1], minus_identity);
  low[0] = pack_float16(x[0], x[1]);
  low[1] = pack_float16(x[2], x[3]);
}
// Operand b of that product.
SSG_DEVICE uint32_t minus_identity_of(int lane) {
  const uint32_t minus_one = 0xbc00;
  const int row = lane % 4 * 2;
  const int column = lane / 4;
  return row == column ? minus_one : row + 1 == column ? minus_one << 16 : 0u;
}

}  // namespace ssg::cuda
