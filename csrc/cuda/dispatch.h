// From values known at run time to compiled instances: the type that logits are stored as, and the kernel of a tile.
#pragma once

#include <cstddef>
#include <iterator>
#include <stdexcept>
#include <utility>

#include "engines.h"
#include "guided.h"
#include "tiles.h"

namespace ssg::cuda {

template <class S>
struct Storage {
  using Compute = float;
};
template <>
struct Storage<double> {
  using Compute = double;
};

template <class K>
struct Kernel {
  using Type = K;
};

template <class S, size_t I>
auto kernel_of_tile() {
  constexpr Tile tile = kTiles[I];
  if constexpr (tile.engine == Engine::fma) {
    using Both = Fma<typename Storage<S>::Compute, tile.thread_columns>;
    return Kernel<Guided<S, Both, Both>>{};
  } else {
    using First = Mma<tile.thread_columns, tile.first_maps, 1>;
    using Second = Mma<tile.thread_columns, tile.second_maps, tile.chunks>;
    return Kernel<Guided<S, First, Second>>{};
  }
}

// If the tile is the one at I, calls f with its Kernel and returns true.
template <class S, size_t I, class F>
bool call_if_at(const Tile& tile, F&& f) {
  if constexpr (sizeof(S) < 8 || kTiles[I].has_float64) {
    if (!(tile == kTiles[I])) return false;
    f(kernel_of_tile<S, I>());
    return true;
  } else {
    return false;
  }
}

template <class S, class F, size_t... I>
void with_kernel_of(const Tile& tile, F&& f, std::index_sequence<I...>) {
  if (!(call_if_at<S, I>(tile, f) || ...)) throw std::logic_error("no kernel for this plan");
}

// Calls f with the Kernel of a tile for logits that are stored as S.
template <class S, class F>
void with_kernel_of(const Tile& tile, F&& f) {
  with_kernel_of<S>(tile, f, std::make_index_sequence<std::size(kTiles)>{});
}

// Calls f with a value of the type that logits are stored as.
template <class F>
void with_storage(Scalar scalar, F&& f) {
  switch (scalar) {
    case Scalar::float32: return f(float{});
    case Scalar::float64: return f(double{});
    case Scalar::bfloat16: return f(BFloat16{});
    case Scalar::float16: return f(Float16{});
    default: throw std::logic_error("logits of this type");
  }
}

}  // namespace ssg::cuda
