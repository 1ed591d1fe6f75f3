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

// A unit is a chunk of a row: unit = ((j * blocks + block of 8 rows i) * 8 + row in the block) * tiles + chunk. The
// rows of a block are taken in the order in which the chunks that eight lanes store lie in different banks. Rows past
// the last one repeat it: they meet zero coefficients.
template <class S, int Parts, class Shape>
SSG_DEVICE int Tensor<S, Parts, Shape>::row_of(unsigned thread) {
  const int nth = static_cast<int>(thread / tiles % 8);
  return tiles == 2 && Parts == 2 ? (nth & 1) | (nth & 2) << 1 | (nth & 4) >> 1 : nth;
}

template <class S, int Parts, class Shape>
SSG_DEVICE auto Tensor<S, Parts, Shape>::unit_of(unsigned thread, int block) const -> Unit {
  const int blocks = (size<&Z::in_h>() + 7) / 8;
  const int count = size<&Z::in_w>() * blocks;
  const int row = row_of(thread);
  const int each = block < count ? block : count - 1;
  const int j = blocks == 1    ? each
                : Shape::sized ? static_cast<int>(static_cast<unsigned>(each) / blocks)
                               : divide(each, p.by_blocks);
  const int i = (each - j * blocks) * 8 + row;
  return {(i < size<&Z::in_h>() ? i : size<&Z::in_h>() - 1) * size<&Z::in_w>() + j,
          chunk_at<Parts * tiles>(row, thread % tiles) + static_cast<uint32_t>(j * of<&L::column_bytes>()) +
              (each - j * blocks) * 8 * map_row};
}

// Splits the values of a unit and stores them at `to`. The words are those of 16-bit logits of one source.
template <class S, int Parts, class Shape>
SSG_DEVICE void Tensor<S, Parts, Shape>::put_unit(uint32_t to, float (&values)[2][4],
                                                  const uint32_t (&word)[2][run_words], bool exists,
                                                  float& squares) const {
  using Run = Runs<tiles>;
  uint32_t high[4];
  uint32_t low[4];
  SSG_UNROLL
  for (int run = 0; run < 2; ++run) {
    float (&x)[4] = values[run];
    SSG_UNROLL
    for (int e = 0; e < 4; ++e) squares = fused_multiply_add(x[e], x[e], squares);
    uint32_t h[2] = {};
    uint32_t r[2] = {};
    if constexpr (Parts == 2) {
      split_sums(x, minus_identity, h, r);
    } else if constexpr (std::is_same_v<S, Float16>) {
      h[0] = word[run][0];
      h[1] = word[run][1];
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
  if (exists) {
    write_shared(memory + to, high);
    if constexpr (Parts == 2) write_shared(memory + (here(to) ^ 16 * tiles), low);
  }
}

template <class S, int Parts, class Shape>
SSG_DEVICE float Tensor<S, Parts, Shape>::load_map() const {
  using Run = Runs<tiles>;
  constexpr int at_once = Parts == 2 || pins ? 2 : 4;
  constexpr int round = threads / (8 * tiles);
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
    for (int n = 0; n < at_once; ++n) unit[n] = pins ? pinned[n] : unit_of(thread, block + n * round);
    const auto load = [&](uint32_t (&word)[at_once][2][run_words], const Logits& from, const S* base) {
      SSG_UNROLL
      for (int n = 0; n < at_once; ++n) {
        const S* x = base + unit[n].from * from.token_stride;
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
    };
    uint32_t word[at_once][2][run_words];
    load(word, p.call.previous[0], pins ? previous[0] : at(p.call.previous[0], 0, offset));
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
      load(word, p.call.previous[1], pins ? previous[has_two ? 1 : 0] : at(p.call.previous[1], 0, offset));
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
    for (int n = 0; n < at_once; ++n) put_unit(unit[n].to, values[n], word[n], block + n * round < count, squares);
  }
  return squares;
}

}  // namespace ssg::cuda
