// The table of the guidance kernel's tiles. The search for a launch plan and the choice of the compiled kernel both use
// it: a new tile is a new line.
#pragma once

#include <cstdint>

#include "../call.h"

namespace ssg::cuda {

// fma: fused multiply-adds. mma: tensor cores. direct: the form without tiles, for maps that shared memory cannot hold.
enum class Engine : int8_t { fma, mma, direct };

struct Tile {
  Engine engine = Engine::direct;
  int thread_columns = 1;  // vocabulary columns of a thread; a warp has 8 times as many
  // MMA engine only. A warp takes 8 rows of coefficients at once in the first contraction, 8 * chunks in the second.
  int chunks = 1;
  int first_maps = 1;   // coarse columns that a warp takes at once in the first contraction
  int second_maps = 1;  // output rows that a warp takes at once in the second
  bool has_float64 = false;
};

// In the order in which the search tries them; of equally fast plans the first wins.
inline constexpr Tile kTiles[] = {
    // columns, chunks, first maps, second maps, float64
    {Engine::fma, 4, 1, 1, 1, false}, {Engine::fma, 2, 1, 1, 1, true},  {Engine::fma, 1, 1, 1, 1, true},
    {Engine::mma, 4, 1, 2, 2, false}, {Engine::mma, 2, 2, 4, 2, false}, {Engine::mma, 2, 1, 4, 2, false},
};

constexpr bool operator==(const Tile& a, const Tile& b) {
  return a.engine == b.engine && a.thread_columns == b.thread_columns && a.chunks == b.chunks &&
         a.first_maps == b.first_maps && a.second_maps == b.second_maps;
}

constexpr bool serves(const Tile& tile, Scalar scalar) { return tile.has_float64 || scalar != Scalar::float64; }

// Whether the coefficients lie in shared memory. With one column a thread the map may fill it, so the coefficients are
// read through the cache; so are those of the MMA engine, which lie in the order of its fragments.
constexpr bool stages_coefficients(Engine engine, int thread_columns) {
  return engine == Engine::fma && thread_columns > 1;
}

// Rows of coefficients of a thread of the FMA engine, and of a fragment of the MMA engine.
inline constexpr int kFmaRows = 4;
inline constexpr int kMmaRows = 8;

// Rows of coefficients and data maps that a warp takes at once. `lanes` of the four quarter warps of the FMA engine lie
// along the rows, the others along the maps.
struct Cover {
  int rows;
  int maps;
};
constexpr Cover first_cover(const Tile& tile, int lanes) {
  return tile.engine == Engine::fma ? Cover{kFmaRows * lanes, 4 / lanes} : Cover{kMmaRows, tile.first_maps};
}
constexpr Cover second_cover(const Tile& tile, int lanes) {
  return tile.engine == Engine::fma ? Cover{kFmaRows * lanes, 4 / lanes}
                                    : Cover{kMmaRows * tile.chunks, tile.second_maps};
}

// The registers of a multiprocessor suffice for this many warps, since the launch bounds allow 128 registers a thread.
inline constexpr int kMostWarps = 16;

}  // namespace ssg::cuda
