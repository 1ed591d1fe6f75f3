// The MMA engine: loading the coarse map into shared memory.
#pragma once

#include <type_traits>

#include "tensor.h"

namespace ssg::cuda {

// The values of a word of logits.
SSG_DEVICE void unpack(float (&to)[1], uint32_t word, float) { to[0] = float_of(word); }
SSG_DEVICE void unpack(float (&to)[2], uint32_t word, BFloat16) {
  to[0] = float_of(word << 16);
  to[1] = float_of(word & 0xffff0000u);
}
SSG_DEVICE void unpack(float (&to)[2], uint32_t word, Float16) { unpack_float16(to[0], to[1], word); }
SSG_DEVICE uint32_t pack(const float (&from)[1], float) { return bits_of(from[0]); }
SSG_DEVICE uint32_t pack(const float (&from)[2], BFloat16) { return pack_bfloat16(from[0], from[1]); }
SSG_DEVICE uint32_t pack(const float (&from)[2], Float16) { return pack_float16(from[0], from[1]); }

// Which vocabulary columns chunk t of a row of the map holds, so that a thread has neighbouring columns of the output:
// two runs of four. Of the pairs of columns (c, c + 1) that lie in a chunk the second contraction sees, in this order,
//   tiles = 4: those of columns 8 t, 8 t + 2, 8 t + 4, 8 t + 6        (runs at 8 t and 8 t + 4)
//   tiles = 2: those of columns 4 t, 4 t + 8, 4 t + 2, 4 t + 10       (runs at 4 t and 4 t + 8)
//   tiles = 1: those of columns 0, 2, 4, 6                            (runs at 0 and 4)
// since the first contraction's tile t, thread l becomes word l * tiles + t of a slot, and word w of a slot becomes
// thread w % 4, tile w / 4 of the second contraction.
template <int Tiles>
struct Runs {
  static constexpr int first = Tiles == 2 ? 4 : 8;   // of chunk t: at first * t
  static constexpr int second = Tiles == 2 ? 8 : 4;  // after the first one
  // Where pair i of both runs, one after the other, lies in the chunk.
  static SSG_DEVICE constexpr int place(int i) { return Tiles == 2 ? (i & 1) * 2 + i / 2 : i; }
};

// A unit is a chunk of a row: unit = ((j * blocks + block of 8 rows i) * 8 + row in the block) * tiles + chunk. The
// rows of a block are taken in the order in which the chunks that eight lanes store lie in different banks. Rows past
// the last one repeat it: they meet zero coefficients.
template <class S, int Parts, class Shape>
SSG_DEVICE int Tensor<S, Parts, Shape>::row_of(unsigned thread) {
  const int nth = static_cast<int>(thread / tiles % 8);
  return tiles == 2 && Parts == 2 ? (nth & 1) | (nth & 2) << 1 | (nth & 4) >> 1 : nth;
}

// The coarse column of a block of eight rows.
template <class S, int Parts, class Shape>
SSG_DEVICE int Tensor<S, Parts, Shape>::column_of(int block) const {
  const int blocks = (size<&Z::in_h>() + 7) / 8;
  return blocks == 1    ? block
         : Shape::sized ? static_cast<int>(static_cast<unsigned>(block) / blocks)
                        : divide(block, p.by_blocks);
}

template <class S, int Parts, class Shape>
SSG_DEVICE auto Tensor<S, Parts, Shape>::unit_of(unsigned thread, int block) const -> Unit {
  const int blocks = (size<&Z::in_h>() + 7) / 8;
  const int count = size<&Z::in_w>() * blocks;
  const int row = row_of(thread);
  const int each = block < count ? block : count - 1;
  const int j = column_of(each);
  const int i = (each - j * blocks) * 8 + row;
  return {(i < size<&Z::in_h>() ? i : size<&Z::in_h>() - 1) * size<&Z::in_w>() + j,
          chunk_at<Parts * tiles>(row, thread % tiles) + static_cast<uint32_t>(j * of<&L::column_bytes>()) +
              (each - j * blocks) * 8 * map_row};
}

// The runs of this thread's units, of a strip that is not whole. The rows pass through the place of their block.
template <class S, int Parts, class Shape>
template <int N, int W>
SSG_DEVICE void Tensor<S, Parts, Shape>::load_staged(uint32_t (*to)[2][W], const S* strip, int64_t stride,
                                                     int begin) const {
  constexpr int together = 4 / tiles;  // blocks of a warp
  constexpr int round = kMmaWarps * together;
  const int blocks = (size<&Z::in_h>() + 7) / 8;
  const int count = size<&Z::in_w>() * blocks;
  const Rows rows = rows_of(windows || tiles == 4 ? here(lane) & 31 : lane);
  const int warp = this->warp & (kMmaWarps - 1);  // the compiler knows its range
  const int first = begin + warp * together;
  const auto exists = [&](int n, int b) {
    constexpr bool alike = Shape::sized && Shape::sizes.in_w * ((Shape::sizes.in_h + 7) / 8) % together == 0;
    if constexpr (alike) return warp + n * kMmaWarps < (count - begin) / together;
    return first + n * round + b < count;
  };
  const int j = column_of(first);
  const int i = 8 * (Shape::sized ? static_cast<int>(static_cast<unsigned>(first) % blocks) : first - j * blocks);
  const int64_t bytes = stride * static_cast<int64_t>(sizeof(S));
  const int64_t distance = here(Rows::apart * size<&Z::in_w>() * bytes);
  const S* base = strip + rows.column;
  const int64_t at_base = here(((rows.row + i) * size<&Z::in_w>() + j) * bytes);
  Elements elements[N][together];
  SSG_UNROLL
  for (int n = 0; n < N; ++n) {
    SSG_UNROLL
    for (int b = 0; b < together; ++b) {
      rows.clear(elements[n][b]);
      // Where the distances between blocks do not depend on the warp, the compiler knows them.
      constexpr int sized_blocks = (Shape::sizes.in_h + 7) / 8;
      constexpr bool steady =
          Shape::sized && round % sized_blocks == 0 && (together == 1 || together % sized_blocks == 0);
      const int block = n * round + b + (steady ? 0 : first);
      const int to_j = steady ? block / sized_blocks : column_of(block) - j;
      const int to_i = steady ? block % sized_blocks * 8 : (block - (to_j + j) * blocks) * 8 - i;
      if (rows.in_strip && exists(n, b))
        rows.load(elements[n][b], moved(base, at_base + (to_i * size<&Z::in_w>() + to_j) * bytes), distance,
                  size<&Z::in_h>() - i - to_i);
    }
  }
  const uint32_t at_first = memory + first * 8 * map_row;
  SSG_UNROLL
  for (int n = 0; n < N; ++n) {
    SSG_UNROLL
    for (int b = 0; b < together; ++b)
      if (exists(n, b)) rows.put(at_first + (n * round + b) * 8 * map_row, elements[n][b]);
  }
  converge();
  using Words = Vec<uint32_t, W>;
  const int own = rows.lane / (8 * tiles);  // the block of this lane's units
  const S* place = shared_pointer<const S>(at_first + own * 8 * map_row) + row_of(rows.lane) * columns +
                   Runs<tiles>::first * (rows.lane % tiles);
  SSG_UNROLL
  for (int n = 0; n < N; ++n) {
    const S* at = place + n * round * 8 * map_row / static_cast<int>(sizeof(S));
    Words found[2] = {};
    if (exists(n, own)) {
      SSG_UNROLL
      for (int run = 0; run < 2; ++run)
        found[run] = load_shared(reinterpret_cast<const Words*>(at + run * Runs<tiles>::second));
    }
    SSG_UNROLL
    for (int w = 0; w < 2 * W; ++w) to[n][w / W][w % W] = found[w / W].at[w % W];
  }
  converge();
}

template <class S, int Parts, class Shape>
SSG_DEVICE float Tensor<S, Parts, Shape>::load_map() const {
  using Run = Runs<tiles>;
  constexpr int at_once = Parts == 2 ? 2 : 4;
  constexpr int round = threads / (8 * tiles);
  constexpr int run_words = sizeof(S);  // of four values
  constexpr int per_word = 4 / static_cast<int>(sizeof(S));
  const int blocks = (size<&Z::in_h>() + 7) / 8;
  const int count = size<&Z::in_w>() * blocks;
  const unsigned thread =
      static_cast<unsigned>(windows || tiles == 4 ? here(thread_index()) : thread_index()) % threads;
  const int t = static_cast<int>(thread % tiles);
  const int offset = Run::first * t;
  float squares = 0.0f;
  SSG_UNROLL_BY(1)
  for (int block = static_cast<int>(thread / (8 * tiles)), begin = 0; begin < count;
       begin += at_once * round, block += at_once * round) {
    Unit unit[at_once];
    SSG_UNROLL
    for (int n = 0; n < at_once; ++n) unit[n] = pins ? pinned[n % 2] : unit_of(thread, block + n * round);
    const auto load = [&](uint32_t (&word)[at_once][2][run_words], const Logits& from) {
      const S* base = at(from, 0, offset);
      if (whole) {
        SSG_UNROLL
        for (int n = 0; n < at_once; ++n) {
          const S* x = base + unit[n].token * from.token_stride;
          if constexpr (sizeof(S) == 2 && Run::second == 4) {
            uint32_t both[4];
            load_words(both, x);
            SSG_UNROLL
            for (int i = 0; i < 4; ++i) word[n][i / 2][i % 2] = both[i];
          } else if constexpr (sizeof(S) == 2) {
            // Two lanes share a row of 32 bytes. Each loads a half of it, in one piece, and they exchange runs.
            uint32_t half[4];
            load_words(half, x + Run::first * t);
            const int odd = t;
            const uint64_t sent = odd == 0 ? half[2] | uint64_t{half[3]} << 32 : half[0] | uint64_t{half[1]} << 32;
            const uint64_t got = shuffle(sent, lane ^ 1);
            const uint32_t other[2] = {static_cast<uint32_t>(got), static_cast<uint32_t>(got >> 32)};
            SSG_UNROLL
            for (int i = 0; i < 2; ++i) {
              word[n][0][i] = odd == 0 ? half[i] : other[i];
              word[n][1][i] = odd == 0 ? other[i] : half[2 + i];
            }
          } else {
            load_words(word[n][0], x);
            load_words(word[n][1], x + Run::second);
          }
        }
      } else {
        SSG_UNROLL
        for (int n = 0; n < at_once; n += 2)
          load_staged<2>(word + n, base - offset, from.token_stride, begin + n * round);
      }
    };
    uint32_t word[at_once][2][run_words];
    load(word, p.call.previous[0]);
    float values[at_once][2][4];
    SSG_UNROLL
    for (int n = 0; n < at_once * 2 * run_words; ++n) {
      float each[per_word];
      unpack(each, word[n / run_words / 2][n / run_words % 2][n % run_words], S{});
      SSG_UNROLL
      for (int e = 0; e < per_word; ++e)
        values[n / run_words / 2][n / run_words % 2][n % run_words * per_word + e] = each[e];
    }
    if (Parts == 2 && p.call.sources == 2) {
      load(word, p.call.previous[1]);
      SSG_UNROLL
      for (int n = 0; n < at_once * 2 * run_words; ++n) {
        float each[per_word];
        unpack(each, word[n / run_words / 2][n / run_words % 2][n % run_words], S{});
        SSG_UNROLL
        for (int e = 0; e < per_word; ++e) {
          float& x = values[n / run_words / 2][n / run_words % 2][n % run_words * per_word + e];
          x = fused_multiply_add(weights.merge[1], each[e], weights.merge[0] * x);
        }
      }
    }
    SSG_UNROLL
    for (int n = 0; n < at_once; ++n) {
      uint32_t high[4];
      uint32_t low[4];
      SSG_UNROLL
      for (int run = 0; run < 2; ++run) {
        float (&x)[4] = values[n][run];
        SSG_UNROLL
        for (int e = 0; e < 4; ++e) squares = fused_multiply_add(x[e], x[e], squares);
        uint32_t h[2] = {};
        uint32_t r[2] = {};
        if constexpr (Parts == 2) {
          split(x, h, r);
        } else if constexpr (std::is_same_v<S, Float16>) {
          h[0] = word[n][run][0];
          h[1] = word[n][run][1];
        } else {
          h[0] = pack_float16(x[0], x[1]);
          h[1] = pack_float16(x[2], x[3]);
        }
        SSG_UNROLL
        for (int i = 0; i < 2; ++i) {
          high[Run::place(2 * run + i)] = h[i];
          low[Run::place(2 * run + i)] = r[i];
        }
      }
      if (block + n * round < count) {
        write_shared(memory + unit[n].to, high);
        if constexpr (Parts == 2) write_shared(memory + (unit[n].to ^ (16 * tiles)), low);
      }
    }
  }
  return squares;
}

}  // namespace ssg::cuda
