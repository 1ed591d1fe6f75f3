// The MMA engine: the guidance step on tensor cores, in float16 with float32 sums. A block takes strips of vocabulary
// columns of a sample, one after the other, in the stages
//
//   map      tensor_load.h    loads the coarse map, merges the sources, splits each value in a high and a low part
//   slots    tensor_first.h   for a group of output rows: contracts along h, folds along w, splits the sums
//   output   tensor_second.h  contracts along w, adds the logits of this scale, rounds and stores
//
// tensor_strips.h goes from strip to strip, tensor_products.h has the products.
// tensor_rows.h loads and stores the rows that accesses of 16 bytes do not reach.
// tensor_layout.h says what lies where in shared memory, pack_tensor.cpp how the coefficients lie.
//
// A number is high + low, both float16: 22 bits. A product of two is high * high + high * low + low * high. With 16-bit
// logits of one source the map is exact in one part. Coefficients are the 16 rows of an instruction, vocabulary columns
// its 8 columns.
//
// Where float16 does not hold the values of a strip accurately, or one is not finite, the whole strip is computed in
// float32 instead (exact.h). That is decided while the map is loaded, before anything is written.
#pragma once

#include "device.h"
#include "params.h"
#include "strength.h"
#include "tensor_layout.h"
#include "tensor_products.h"
#include "tensor_rows.h"

namespace ssg::cuda {

// The sizes that a kernel is compiled for. In = 0: any sizes, read from the parameters.
template <int In, int Out, int Tiles>
struct Shape {
  static constexpr bool sized = In > 0;
  static constexpr int tiles = Tiles;  // of 8 vocabulary columns
  static constexpr TensorSizes sizes{In, In, Out, Out, 3, In > 16, In > 16};
};

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

// S: what logits are stored as. Parts: of a value of the map.
template <class S, int Parts, class Shape>
struct Tensor {
  using Parameters = TensorParams;
  static constexpr int tiles = Shape::tiles;
  static constexpr int columns = 8 * tiles;
  static constexpr int threads = kMmaThreads;
  static constexpr int threads_at_most = threads;
  static constexpr int blocks_at_once = Shape::sizes.in_h > 32 ? 1 : 2;
  static constexpr int per_thread = 2 * tiles;  // neighbouring columns of the output
  static constexpr int words = per_thread * static_cast<int>(sizeof(S)) / 4;
  static constexpr bool has_one = sizeof(S) == 4 || Parts == 1;  // calls with one source, or two
  static constexpr bool has_two = sizeof(S) == 4 || Parts == 2;
  static constexpr uint32_t map_row = 16 * tiles * Parts;
  static constexpr uint32_t slot = 32 * tiles;
  static constexpr uint32_t flip = 16 * tiles;  // exchanges the high and the low part of a slot
  // Loops over the sizes are unrolled where these are known.
  static constexpr int unrolled = Shape::sized ? 16 : 1;
  static constexpr TensorLayout sized_layout = tensor_layout(Shape::sizes, Parts, tiles);
  // Whether the output has as many rows and columns, or pairs of them, as its tiles.
  static constexpr bool exact_rows = Shape::sized && Shape::sizes.out_h % (8 * sized_layout.row_blocks) == 0;
  static constexpr bool exact_columns = Shape::sized && sized_layout.pairs % 16 == 0;
  // Output rows that a warp takes at once in the second contraction.
  static constexpr int rows_at_once =
      Shape::sized ? 8 * sized_layout.row_blocks * sized_layout.second_tiles / kMmaWarps : 1;

  template <int TensorLayout::* Field>
  SSG_DEVICE int of() const {
    if constexpr (Shape::sized) {
      constexpr int value = sized_layout.*Field;
      return value;
    } else {
      return p.layout.*Field;
    }
  }
  template <int TensorSizes::* Field>
  SSG_DEVICE int size() const {
    if constexpr (Shape::sized) {
      constexpr int value = Shape::sizes.*Field;
      return value;
    } else {
      return p.sizes.*Field;
    }
  }
  using L = TensorLayout;
  using Z = TensorSizes;
  static constexpr int parities = Shape::sizes.folds ? 2 : 1;
  static constexpr bool windows = Shape::sizes.windows;

  const TensorParams& p;
  uint32_t memory;
  uint32_t minus_identity;  // operand b of a product that subtracts
  int lane;
  int warp;
  int g;  // of a fragment: row lane / 4, columns 2 (lane % 4) and the next
  int l;

  int64_t batch = 0;
  int strip = 0;
  MergedWeights weights{};
  // What this thread loads of the map, and where to. Where it is the same in every strip, it is computed once.
  struct Unit {
    int from;  // the token, or in strips that are not whole where its elements lie in shared memory
    uint32_t to;
  };
  static SSG_DEVICE Unit kept(const Unit& unit) { return {here(unit.from), here(unit.to)}; }
  static constexpr bool pins = Shape::sized && !windows && tiles == 2;
  Unit pinned[2] = {};
  uint32_t pinned_map = 0;
  uint32_t pinned_slots = 0;
  uint32_t pinned_rows[tiles] = {};
  // The first token that this thread writes (token 0 unless it is the same in every strip), its columns.
  const S* previous[has_two ? 2 : 1] = {};
  const S* current = nullptr;
  S* out = nullptr;

  static SSG_DEVICE void run(const TensorParams& p) {
    const int lane = thread_index() % 32;
    Tensor block{p, shared_base(), minus_identity_of(lane), lane, thread_index() / 32, lane / 4, lane % 4};
    block.work();
  }

  // All columns of the strip exist, and all accesses may be of 16 bytes.
  SSG_DEVICE bool whole() const { return strip < p.whole_strips; }
  // One source, and a finite prior leaves -inf as it is.
  SSG_DEVICE bool plain() const {
    return p.call.current[0].data != nullptr && p.call.sources == 1 && weights.current[0] > 0.0f;
  }
  // The output is written in runs of neighbouring columns.
  SSG_DEVICE bool in_runs() const { return whole() && ((has_one && plain()) || (has_two && p.call.sources == 2)); }

  // The first one of a lane's columns in the output: of a run, or of single elements (tensor_rows.h).
  static SSG_DEVICE int own_column(int lane, bool run) { return run ? lane % 4 * per_thread : lane % columns; }
  // The first token that a lane writes, computed anew where registers are few.
  static constexpr bool recomputes = windows;
  SSG_DEVICE const S* first_of(const Logits& logits, const S* kept, bool run) const {
    return recomputes ? at(logits, 0, own_column(here(lane) & 31, run)) : kept;
  }

  SSG_DEVICE int64_t first_column() const { return static_cast<int64_t>(strip) * columns; }
  // How many columns of the strip exist.
  SSG_DEVICE int valid() const {
    const int64_t rest = p.call.vocabulary - first_column();
    return rest < columns ? static_cast<int>(rest) : columns;
  }

  // From a token to the next one.
  static SSG_DEVICE int64_t bytes_of(const Logits& logits) {
    return logits.token_stride * static_cast<int64_t>(sizeof(S));
  }
  SSG_DEVICE const S* at(const Logits& logits, int token, int offset) const {
    return static_cast<const S*>(logits.data) + batch * logits.batch_stride + token * logits.token_stride +
           first_column() + offset;
  }

  // The rows of the map that a lane gives to load_matrices.
  SSG_DEVICE uint32_t map_at(int lane) const { return memory + chunk_at<Parts * tiles>(lane % 16, lane / 16); }
  // Word l * tiles of this thread's slots, in the high part; those of the warp's next columns are 8 slots further.
  SSG_DEVICE uint32_t own_slot() const { return chunk_at<2 * tiles>(warp, l * tiles / 4) + l * tiles % 4 * 4; }
  SSG_DEVICE uint32_t slots_at() const { return memory + of<&L::slots_at>() + g * of<&L::row_bytes>() + own_slot(); }
  // The slots of an output row that a lane gives to load_matrices.
  SSG_DEVICE uint32_t row_at(int lane, int local, int i) const {
    return memory + of<&L::slots_at>() + local * of<&L::row_bytes>() +
           chunk_at<2 * tiles>(lane % 16, 2 * i + lane / 16);
  }

  // Whether the last of the steps over so many k needs only 8 of its 16. Where sizes are not known every step takes 16.
  static SSG_DEVICE bool is_half(int step, int k) { return Shape::sized && step == k / 16 && k % 16 <= 8; }

  SSG_DEVICE void work();
  SSG_DEVICE void begin();
  SSG_DEVICE void strip_of(int first, int last);
  SSG_DEVICE int first_group(int split) const;
  SSG_DEVICE void clear_slots() const;
  SSG_DEVICE Unit unit_of(unsigned thread, int block) const;
  SSG_DEVICE Unit element_unit(int lane, int block) const;
  SSG_DEVICE float load_map() const;            // returns the sum of the squares of what this thread loaded
  SSG_DEVICE float load_elements() const;       // the same, of a strip that is not whole
  SSG_DEVICE void fill_slots(int group) const;  // the first contraction
  SSG_DEVICE void write_rows(int group) const;  // the second one and the epilogue
  SSG_DEVICE void exact_strip(int first, int last, bool large) const;

  // ---- parts of the stages

  // The first token of the map that this lane loads of a strip that is not whole.
  SSG_DEVICE int first_token() const {
    constexpr int blocks = (Shape::sizes.in_h + 7) / 8;
    const int block = warp * per_warp();
    return (block % blocks * 8 + lane / columns) * size<&Z::in_w>() + block / blocks;
  }
  // Blocks of eight rows of the map that a warp loads of a strip that is not whole.
  SSG_DEVICE int per_warp() const {
    constexpr int at_once = 8 / tiles;
    return (size<&Z::in_w>() * ((size<&Z::in_h>() + 7) / 8) + kMmaWarps * at_once - 1) / (kMmaWarps * at_once) *
           at_once;
  }
  static SSG_DEVICE int row_of(unsigned thread);
  static constexpr int run_words = sizeof(S);  // of four values
  SSG_DEVICE void put_unit(uint32_t to, float (&values)[2][4], const uint32_t (&word)[2][run_words], bool exists,
                           float& squares) const;
  SSG_DEVICE void put_slot(const uint32_t (&at)[2], int term, int parity, int block, const uint32_t (&high)[tiles],
                           const uint32_t (&low)[tiles]) const;
  using Sums = float[rows_at_once][parities][tiles][4];
  SSG_DEVICE void contract(Sums& sum, int lane, int local, int tile) const;
  SSG_DEVICE void weigh(float (&value)[per_thread], const Sums& sum, int r, int half, int side) const;
  // Sources: of strips where with one -inf needs no care (`plain`). 0: one source, or no logits of this scale.
  template <int Sources>
  SSG_DEVICE void finish(uint32_t (&line)[words], const uint32_t (&other)[words], float (&value)[per_thread]) const;
  template <int Sources, bool InRuns>
  SSG_DEVICE void write_items(int group) const;
  template <int Sources>
  SSG_DEVICE void write_runs(int row, int local, int tile) const;
  template <int Sources>
  SSG_DEVICE void write_elements(int row, int local, int tile) const;

  // What is written at once, eight tokens of an output row and with `side` = 1 their mirrors: calls f(r, half, side).
  template <class F>
  static SSG_DEVICE void for_all(F&& f) {
    call_each<rows_at_once * 2 * parities>([&](int n) { f(n / (2 * parities), n / parities % 2, n % parities); });
  }

  // ---- rows of strips that are not whole, eight at a time

  using Rows = ElementRows<S, tiles>;
  using Elements = typename Rows::Elements;
  struct Walk;
  SSG_DEVICE Walk walk_of(const Logits& logits, const S* first, const Rows& rows, int row, int tile) const;
  SSG_DEVICE uint32_t stage_of(int local) const {
    return memory + of<&L::stage_at>() + local * of<&L::stage_row>() + warp * of<&L::stage_warp>();
  }
  SSG_DEVICE Rows rows_of(int lane) const {
    return {lane, lane / columns, lane % columns, first_column() + lane % columns < p.call.vocabulary};
  }
};

}  // namespace ssg::cuda

#include "exact.h"
#include "tensor_elements.h"
#include "tensor_first.h"
#include "tensor_load.h"
#include "tensor_second.h"
#include "tensor_strips.h"
