// Matrices as a plan holds them: packed in the order in which the kernel reads them.
#pragma once

#include "../../matrix.h"
#include "../plan.h"

namespace ssg::cpu {

// Sets the lengths of the classes of `n` coordinates after `folds`.
void set_lengths(int64_t (&lengths)[kMostFolds + 1], int64_t n, int64_t folds);

// Packs a matrix of all outputs, or of those that come first in their orbits, whose columns are coordinates in order.
Expansion<double> expansion_of(const Matrix& m, int64_t out, int64_t folds, const int64_t (&lengths)[kMostFolds + 1],
                               int64_t accumulators);

// A whole matrix as a block that maps coordinates from `in` on to coordinates from `out` on.
Block<double> block_of(const Matrix& m, int64_t in, int64_t out);

// The entries of a matrix that are not zero.
Taps<double> taps_of(const Matrix& m);

}  // namespace ssg::cpu
