// The layout of the MMA engine in shared memory, and its tiles. The kernel uses it at compile time for the sizes of
// tiles.h, and at run time for any other.
//
// The coarse map, a column j of the grid after the other, each with its rows i up to a multiple of 8:
//
//     [j][i][high: 8 * tiles columns][low]       float16; one part where the logits are exact in float16
//
// The slots of a group of output rows, the left and right ends of the pipe between the two contractions:
//
//     [row][parity][term][coarse column j][high: 8 * tiles columns][low]
//
// Rows of logits that pass through shared memory (tensor_rows.h) take 512 bytes of a row of slots that a warp alone has
// read. If several warps read a row, or if these bytes contain padding, there is a place for each warp behind the slots.
//
// A run of 16 bytes, 8 vocabulary columns of one part, is a chunk. Chunks are exchanged within lines of 128 bytes, so
// that 8 neighbouring k lie in different banks (Chunks). Rows of slots are shifted against each other by 16 * tiles
// bytes, so that the rows that a warp stores at once do too.
#pragma once

#include <cstdint>

namespace ssg::cuda {

inline constexpr int kMmaWarps = 8;
inline constexpr int kMmaThreads = 32 * kMmaWarps;

// What a step asks for.
struct TensorSizes {
  int in_h = 0;
  int in_w = 0;
  int out_h = 0;
  int out_w = 0;
  int terms = 0;
  bool folds = false;    // output column c and its mirror are the sum and the difference of an even and an odd product
  bool windows = false;  // eight rows of the last term's h factor need eight coarse rows at most
};

struct TensorLayout {
  int parities = 1;  // even and odd where the step folds
  int coarse = 0;    // coarse columns of a parity
  // First contraction: 8 rows of a term are half a tile of 16 rows. The term with windows has a tile of its own.
  int row_blocks = 1;  // of 8 output rows in a group
  int groups = 1;
  int dense_terms = 0;  // terms without windows
  int first_tiles = 0;
  int first_steps = 0;  // of 16 coarse rows
  // Second contraction.
  int pairs = 0;         // output columns, or pairs of them
  int second_tiles = 0;  // of 16 pairs
  int second_steps = 0;  // of 16 slots of a parity
  // Bytes and slots.
  int column_bytes = 0;  // of the map, from j to j + 1
  int slots_at = 0;
  int term_slots = 0;  // from a term to the next: multiples of 4, see Chunks
  int parity_slots = 0;
  int row_bytes = 0;
  int stage_at = 0;
  int stage_row = 0;   // from an output row's to the next
  int stage_warp = 0;  // from a warp's to the next
  int bytes = 0;
};

constexpr int round_up(int n, int to) { return (n + to - 1) / to * to; }

constexpr TensorLayout tensor_layout(const TensorSizes& sizes, int parts, int tiles) {
  TensorLayout made;
  made.parities = sizes.folds ? 2 : 1;
  made.coarse = sizes.folds ? (sizes.in_w + 1) / 2 : sizes.in_w;
  made.dense_terms = sizes.terms - (sizes.windows ? 1 : 0);
  made.row_blocks = !sizes.windows && sizes.out_h > 8 && (sizes.in_h <= 16 || sizes.terms == 1) ? 2 : 1;
  made.groups = (sizes.out_h + 8 * made.row_blocks - 1) / (8 * made.row_blocks);
  made.first_tiles = (made.dense_terms * made.row_blocks + 1) / 2;
  made.first_steps = (sizes.in_h + 15) / 16;
  made.pairs = sizes.folds ? (sizes.out_w + 1) / 2 : sizes.out_w;
  made.second_tiles = (made.pairs + 15) / 16;
  const int map_row = 16 * tiles * parts;
  const int slot = 32 * tiles;
  made.column_bytes = round_up(sizes.in_h, 8) * map_row;
  // A step of 16 may read 8 rows past the last column.
  made.slots_at = sizes.in_w * made.column_bytes + (16 * made.first_steps - round_up(sizes.in_h, 8)) * map_row;
  made.term_slots = round_up(made.coarse, 4);
  made.parity_slots = sizes.terms * made.term_slots;
  made.second_steps = (made.parity_slots + 15) / 16;
  made.row_bytes = made.parities * made.parity_slots * slot + 16 * tiles;
  // So may one of the second contraction.
  made.bytes =
      made.slots_at + 8 * made.row_blocks * made.row_bytes + (16 * made.second_steps - made.parity_slots) * slot;
  // Behind what is read with the row before, and without padding.
  const int first = 16 * made.second_steps - made.parity_slots;
  made.stage_at = made.slots_at + first * slot;
  made.stage_row = made.row_bytes;
  if (made.second_tiles > 1 || made.coarse < 8 || first % made.term_slots + 8 > made.coarse ||
      first + 8 > made.parities * made.parity_slots) {
    made.stage_at = made.bytes;
    made.stage_row = 0;
    made.stage_warp = 512;
    made.bytes += kMmaWarps * made.stage_warp;
  }
  return made;
}

}  // namespace ssg::cuda
