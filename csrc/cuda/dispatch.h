// From values known at run time to compiled instances: the type that logits are stored as, and the kernel of a tile.
#pragma once

#include <cstddef>
#include <iterator>
#include <stdexcept>
#include <utility>

#include "dense.h"
#include "engines.h"
#include "guided.h"
#include "tensor.h"
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

template <class S, int Parts, size_t I>
auto kernel_of_tile() {
  constexpr Tile tile = kTiles[I];
  using T = typename Storage<S>::Compute;
  if constexpr (tile.engine == Engine::dense)
    return Kernel<Dense<S, T>>{};
  else if constexpr (tile.engine == Engine::fma)
    return Kernel<Guided<S, Fma<T, tile.thread_columns>>>{};
  else
    return Kernel<Tensor<S, Parts, Shape<tile.in, tile.out, tile.thread_columns / 2>>>{};
}

// If the tile is the one at I, calls f with its Kernel and returns true.
template <class S, int Parts, size_t I, class F>
bool call_if_at(const Tile& tile, F&& f) {
  if constexpr (exists(kTiles[I], sizeof(S), Parts)) {
    if (!(tile == kTiles[I])) return false;
    f(kernel_of_tile<S, Parts, I>());
    return true;
  } else {
    return false;
  }
}

template <class S, int Parts, class F, size_t... I>
void with_kernel_of(const Tile& tile, F&& f, std::index_sequence<I...>) {
  if (!(call_if_at<S, Parts, I>(tile, f) || ...)) throw std::logic_error("no kernel for this plan");
}

// Calls f with the Kernel of a tile for `sources` logits that are stored as S.
template <class S, class F>
void with_kernel_of(const Tile& tile, int64_t sources, F&& f) {
  constexpr auto all = std::make_index_sequence<std::size(kTiles)>{};
  if (tile.engine == Engine::mma && parts_of(sizeof(S), sources) == 1)
    with_kernel_of<S, 1>(tile, f, all);
  else
    with_kernel_of<S, 2>(tile, f, all);
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
