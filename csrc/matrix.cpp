#include "matrix.h"

#include <cmath>
#include <new>
#include <utility>

namespace ssg {

Matrix::Matrix(int64_t rows, int64_t cols) : rows(rows), cols(cols) {
  int64_t count = 0;
  if (__builtin_mul_overflow(rows, cols, &count)) throw std::bad_alloc();
  values.resize(static_cast<size_t>(count));
  runs.reserve(static_cast<size_t>(rows));
  for (int64_t r = 0; r < rows; ++r) runs.push_back({0, cols, r * cols});
}

double* Matrix::append_row(int64_t begin, int64_t end) {
  const auto at = static_cast<int64_t>(values.size());
  runs.push_back({begin, end, at});
  values.resize(static_cast<size_t>(at + end - begin));
  ++rows;
  return values.data() + at;
}

Matrix identity(int64_t n) {
  Matrix m(n);
  for (int64_t i = 0; i < n; ++i) *m.append_row(i, i + 1) = 1.0;
  return m;
}

Matrix transpose(const Matrix& m) {
  std::vector<Matrix::Run> extents(static_cast<size_t>(m.cols), {m.rows, 0, 0});
  for (int64_t r = 0; r < m.rows; ++r)
    for (int64_t c = m.runs[r].begin; c < m.runs[r].end; ++c) {
      extents[c].begin = std::min(extents[c].begin, r);
      extents[c].end = r + 1;
    }
  Matrix t(m.rows);
  for (const Matrix::Run& extent : extents) t.append_row(std::min(extent.begin, extent.end), extent.end);
  // A few columns at a time, whose entries stay in cache: each column becomes a row, and those lie far apart.
  constexpr int64_t kColumns = 16;
  for (int64_t first = 0; first < m.cols; first += kColumns)
    for (int64_t r = 0; r < m.rows; ++r) {
      const int64_t end = std::min(m.runs[r].end, first + kColumns);
      for (int64_t c = std::max(m.runs[r].begin, first); c < end; ++c) t.row(c)[r - t.runs[c].begin] = m(r, c);
    }
  return t;
}

Matrix kronecker(const Matrix& a, const Matrix& b) {
  Matrix m(a.rows * b.rows, a.cols * b.cols);
  for (int64_t ar = 0; ar < a.rows; ++ar)
    for (int64_t br = 0; br < b.rows; ++br) {
      double* row = m.row(ar * b.rows + br);
      for (int64_t ac = a.runs[ar].begin; ac < a.runs[ar].end; ++ac)
        for (int64_t bc = b.runs[br].begin; bc < b.runs[br].end; ++bc) row[ac * b.cols + bc] = a(ar, ac) * b(br, bc);
    }
  return m;
}

namespace {

// Whether the runs of `wide` hold those of `narrow`.
bool covers(const Matrix& wide, const Matrix& narrow) {
  for (int64_t r = 0; r < wide.rows; ++r)
    if (narrow.runs[r].begin < wide.runs[r].begin || narrow.runs[r].end > wide.runs[r].end) return false;
  return true;
}

// Adds sign b to a, which covers it.
void add(Matrix& a, const Matrix& b, double sign) {
  for (int64_t r = 0; r < a.rows; ++r) {
    double* to = a.row(r) + b.runs[r].begin - a.runs[r].begin;
    const double* from = b.row(r);
    for (int64_t i = 0; i < b.runs[r].end - b.runs[r].begin; ++i) to[i] += sign * from[i];
  }
}

}  // namespace

Matrix negated(Matrix m) {
  for (double& value : m.values) value = -value;
  return m;
}

Matrix sum(Matrix a, Matrix b, double sign) {
  if (covers(a, b)) {
    add(a, b, sign);
    return a;
  }
  if (sign < 0) b = negated(std::move(b));
  if (covers(b, a)) {
    add(b, a, 1.0);
    return b;
  }
  Matrix m(a.rows, a.cols);
  add(m, a, 1.0);
  add(m, b, 1.0);
  return m;
}

bool equal(const Matrix& a, const Matrix& b, double sign) {
  if (a.rows != b.rows || a.cols != b.cols) return false;
  for (int64_t r = 0; r < a.rows; ++r)
    for (int64_t c = std::min(a.runs[r].begin, b.runs[r].begin); c < std::max(a.runs[r].end, b.runs[r].end); ++c)
      if (a(r, c) != sign * b(r, c)) return false;
  return true;
}

bool is_symmetric(const Matrix& m) {
  double largest = 0.0;
  for (double value : m.values) largest = std::max(largest, std::abs(value));
  for (int64_t r = 0; r < m.rows; ++r)
    for (int64_t c = m.runs[r].begin; c < m.runs[r].end; ++c)
      if (std::abs(m(r, c) - m(m.rows - 1 - r, m.cols - 1 - c)) > 1e-13 * largest) return false;
  return true;
}

}  // namespace ssg
