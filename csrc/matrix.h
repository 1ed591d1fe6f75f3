// Matrices in float64 that store a run of each row. What lies outside the run is zero.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace ssg {

class Matrix {
 public:
  struct Run {
    int64_t begin = 0;  // the first column
    int64_t end = 0;    // the column after the last one
    int64_t at = 0;     // of the first column's entry in `values`
  };

  int64_t rows = 0;
  int64_t cols = 0;
  std::vector<Run> runs;  // [row]
  std::vector<double> values;

  Matrix() = default;
  // All entries are zero. The run of each row is the whole row. Throws std::bad_alloc where 63 bits cannot count them.
  Matrix(int64_t rows, int64_t cols);
  // Without rows yet.
  explicit Matrix(int64_t cols) : cols(cols) {}

  // Appends a row whose run is zero, and returns the run's entries.
  double* append_row(int64_t begin, int64_t end);
  double* row(int64_t r) { return values.data() + runs[r].at; }
  const double* row(int64_t r) const { return values.data() + runs[r].at; }
  double operator()(int64_t r, int64_t c) const {
    const Run& run = runs[r];
    return run.begin <= c && c < run.end ? values[run.at + c - run.begin] : 0.0;
  }
};

Matrix identity(int64_t n);
Matrix transpose(const Matrix& m);
Matrix kronecker(const Matrix& a, const Matrix& b);
// a + sign b
Matrix sum(Matrix a, Matrix b, double sign = 1.0);
Matrix negated(Matrix m);

// Whether a = sign b.
bool equal(const Matrix& a, const Matrix& b, double sign = 1.0);

// Whether J m J = m, where J reverses an axis. Such a factor maps even vectors to even ones and odd ones to odd ones.
bool is_symmetric(const Matrix& m);

}  // namespace ssg
