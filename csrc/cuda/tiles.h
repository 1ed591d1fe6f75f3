// The table of the guidance kernel's tiles. The search for a launch plan and the choice of the compiled kernel both use
// it: a new tile is a new line.
#pragma once

#include <cstdint>

#include "../call.h"

namespace ssg::cuda {

// dense: fused multiply-adds over all coarse tokens at once. fma: the same along one axis, then along the other. mma:
// tensor cores. direct: the form without tiles, for maps that shared memory cannot hold.
enum class Engine : int8_t { dense, fma, mma, direct };

struct Tile {
  Engine engine = Engine::direct;
  int thread_columns = 1;  // neighbouring vocabulary columns of a thread
  // MMA engine only: the step from in x in to out x out tokens, in the default prior, that the kernel is compiled for;
  // 0: for any.
  int in = 0;
  int out = 0;
};

// In the order in which the search tries them; of equally fast plans the first wins.
inline constexpr Tile kTiles[] = {
    {Engine::dense, 1},       {Engine::fma, 2},         {Engine::fma, 1},         {Engine::mma, 4, 10, 13},
    {Engine::mma, 8, 13, 16}, {Engine::mma, 4, 13, 16}, {Engine::mma, 4, 18, 24}, {Engine::mma, 8, 24, 32},
    {Engine::mma, 4, 24, 32}, {Engine::mma, 4, 48, 64}, {Engine::mma, 4},         {Engine::mma, 2},
};

constexpr bool operator==(const Tile& a, const Tile& b) {
  return a.engine == b.engine && a.thread_columns == b.thread_columns && a.in == b.in && a.out == b.out;
}

// Columns of a warp: the dense engine has 32 threads side by side, the FMA engine 8, the MMA engine 4.
constexpr int warp_columns(const Tile& tile) {
  return (tile.engine == Engine::dense ? 32 : tile.engine == Engine::fma ? 8 : 4) * tile.thread_columns;
}

// In how many parts of float16 the MMA engine holds a value of the coarse map: 16-bit logits of one source need one.
constexpr int parts_of(int64_t item_bytes, int64_t sources) { return item_bytes == 2 && sources == 1 ? 1 : 2; }

// Which kernels there are. Eight columns of a thread are a run of 16 bytes in a 16-bit type, four in float32.
constexpr bool exists(const Tile& tile, int64_t item_bytes, int parts) {
  if (tile.engine != Engine::mma) return true;
  if (item_bytes == 8 || (item_bytes == 4 && parts == 1)) return false;
  return tile.thread_columns < 8 || parts == 1;
}

// Whether the FMA engine has its coefficients in shared memory. With one column a thread the map may fill it, so they
// are read through the cache.
constexpr bool stages_coefficients(int thread_columns) { return thread_columns > 1; }

// Rows of coefficients of a thread of the FMA engine.
inline constexpr int kFmaRows = 4;

// Rows of coefficients and data maps that a warp of the FMA engine takes at once: `lanes` of its four quarters lie
// along the rows, the others along the maps.
struct Cover {
  int rows;
  int maps;
};
constexpr Cover cover_of(int lanes) { return {kFmaRows * lanes, 4 / lanes}; }

// The dense engine takes blocks of this many warps and coarse maps of this many tokens at most.
inline constexpr int kMostDenseWarps = 8;
inline constexpr int kMostDenseTokens = 256;
inline constexpr int64_t kMostDenseLoads = 1 << 16;  // of 16 bytes of coefficients

// The registers of a multiprocessor suffice for this many warps, since the launch bounds allow 128 registers a thread.
inline constexpr int kMostWarps = 16;

}  // namespace ssg::cuda
