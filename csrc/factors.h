// The prior as a sum of separable terms: prior = sum_t weight_t * H_t x W_t^T, all in float64.
#pragma once

#include <cstdint>
#include <vector>

#include "names.h"

namespace ssg {

struct Matrix {
  int64_t rows = 0;
  int64_t cols = 0;
  std::vector<double> values;  // row-major

  Matrix() = default;
  Matrix(int64_t rows, int64_t cols) : rows(rows), cols(cols), values(rows * cols) {}
  double& operator()(int64_t r, int64_t c) { return values[r * cols + c]; }
  double operator()(int64_t r, int64_t c) const { return values[r * cols + c]; }
  bool operator==(const Matrix& other) const {
    return rows == other.rows && cols == other.cols && values == other.values;
  }
};

Matrix identity(int64_t n);
Matrix transpose(const Matrix& m);
Matrix multiply(const Matrix& a, const Matrix& b);
Matrix kronecker(const Matrix& a, const Matrix& b);

// The orthonormal DCT-II of size n.
Matrix dct_matrix(int64_t n);

// One axis of torch.nn.functional.interpolate(align_corners=False) as a (to x from) matrix, computed in float64.
Matrix interpolation_matrix(int64_t from, int64_t to, Interpolation interpolation);

// The three factors of one axis, from -> to. B copies the coarse spectrum, G is the low band of the interpolated map
// (docs/method.md).
struct AxisFactors {
  Matrix interpolated;  // U
  Matrix spliced;       // B = g P^T C_n
  Matrix low_band;      // G = P^T P U
};
AxisFactors axis_factors(int64_t from, int64_t to, Interpolation interpolation, bool rescale);

struct Term {
  Matrix h;
  Matrix w;
};

struct Grid {
  int64_t h = 0;
  int64_t w = 0;
  int64_t tokens() const { return h * w; }
  bool operator==(const Grid& other) const { return h == other.h && w == other.w; }
};

// The terms of the prior from `prev_size` to `size`, or of its transpose from `size` to `prev_size`. Terms that share a
// factor are merged, so an axis that does not grow costs nothing.
std::vector<Term> prior_terms(Grid size, Grid prev_size, Prior prior, Interpolation interpolation, bool rescale,
                              bool transposed);

// The sum of the terms as one (output tokens) x (input tokens) matrix.
Matrix dense_operator(const std::vector<Term>& terms);

// Whether J m J = m, where J reverses an axis. Such a factor maps even vectors to even ones and odd ones to odd ones.
bool is_symmetric(const Matrix& m);

}  // namespace ssg
