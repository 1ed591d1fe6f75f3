#include "pack.h"

#include <algorithm>
#include <utility>

namespace ssg::cpu {

void set_lengths(int64_t (&lengths)[kMostFolds + 1], int64_t n, int64_t folds) {
  std::fill(lengths, lengths + kMostFolds + 1, 0);
  for (int64_t fold = 0; fold < folds; ++fold) {
    lengths[fold] = n / 2;
    n -= n / 2;
  }
  lengths[folds] = n;
}

namespace {

void set_runs(Chunk& chunk, int64_t out, int64_t folds) {
  const int64_t count = chunk.orbits;
  const int64_t end = chunk.begin + count;
  chunk.runs = {{chunk.begin, count}};
  if (folds == 2) {
    chunk.runs.push_back({out / 2 - end, count});
    chunk.runs.push_back({out / 2 + chunk.begin, count});
  }
  if (folds > 0) chunk.runs.push_back({std::max(out - end, end), std::min(count, out - chunk.begin - end)});
  for (const Chunk::Run& run : chunk.runs) chunk.outputs += run.count;
}

}  // namespace

Expansion<double> expansion_of(const Matrix& m, int64_t out, int64_t folds, const int64_t (&lengths)[kMostFolds + 1],
                               int64_t accumulators) {
  Expansion<double> packed;
  packed.out = out;
  packed.folds = folds;
  std::copy(lengths, lengths + kMostFolds + 1, packed.lengths);
  constexpr int64_t kMostProducts = 6;
  const int64_t most = std::max<int64_t>(1, std::min(kMostProducts, accumulators >> folds));
  const int64_t orbits = packed.orbits();
  const int64_t count = (orbits + most - 1) / most;
  for (int64_t c = 0; c < count; ++c) {
    Chunk chunk;
    chunk.begin = c * orbits / count;
    chunk.orbits = (c + 1) * orbits / count - chunk.begin;
    chunk.offset = packed.multiply_adds();
    int64_t column = 0;
    for (int64_t k = 0; k <= folds; ++k) {
      const int64_t products = k < folds ? chunk.orbits << (folds - 1 - k) : chunk.orbits;
      for (const int64_t end = column + lengths[k]; column < end; ++column)
        for (int64_t p = 0; p < products; ++p) {
          const int64_t orbit = chunk.begin + p % chunk.orbits;
          packed.coefficients.push_back(m(p < chunk.orbits ? orbit : out / 2 - 1 - orbit, column));
        }
    }
    set_runs(chunk, out, folds);
    packed.chunks.push_back(std::move(chunk));
  }
  return packed;
}

Block<double> block_of(const Matrix& m, int64_t in, int64_t out) {
  int64_t lengths[kMostFolds + 1];
  set_lengths(lengths, m.cols, 0);
  constexpr int64_t kAccumulators = 6;
  return {in, out, expansion_of(m, m.rows, 0, lengths, kAccumulators)};
}

Taps<double> taps_of(const Matrix& m) {
  Taps<double> taps;
  for (int64_t r = 0; r < m.rows; ++r) {
    const double* row = m.row(r);
    const int64_t length = m.runs[r].end - m.runs[r].begin;
    taps.count = std::max<int64_t>(taps.count, length - std::count(row, row + length, 0.0));
  }
  for (int64_t r = 0; r < m.rows; ++r) {
    int64_t written = 0;
    const auto append = [&](int64_t column, double value) {
      taps.index.push_back(static_cast<int32_t>(column));
      taps.coefficient.push_back(value);
      ++written;
    };
    for (int64_t c = m.runs[r].begin; c < m.runs[r].end; ++c)
      if (m(r, c) != 0.0) append(c, m(r, c));
    while (written < taps.count) append(0, 0.0);
  }
  return taps;
}

}  // namespace ssg::cpu
