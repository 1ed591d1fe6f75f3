// One axis of a step's operator: its symmetry, its factors, and its frequencies.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "../../factors.h"
#include "../../step.h"

namespace ssg::cpu {

// One axis of a step's operator. Where it is symmetric, it is folded once.
struct Side {
  int64_t in = 0;
  int64_t out = 0;
  bool symmetric = false;
  int64_t odd() const { return symmetric ? in / 2 : 0; }
  int64_t even() const { return in - odd(); }
  int64_t folds() const { return symmetric ? 1 : 0; }
};

// The axis of the terms' h or w factors, which is symmetric where all of them are.
Side side_of(const std::vector<Term>& terms, Matrix Term::* factor);

// A factor whose columns are folded coordinates: those of the odd class, then those of the even one.
Matrix folded(const Matrix& factor, const Side& side);

// The factors of one axis.
struct Factors : Side {
  Matrix u;
  Matrix b;
  Matrix g;
  bool transposed = false;
  double gain = 1.0;  // of B
  int64_t coarse() const { return std::min(in, out); }
  int64_t fine() const { return std::max(in, out); }
};
Factors factors_of(int64_t from, int64_t to, const StepKey& key);

// Cosines of an orthonormal DCT-II.
class Cosines {
 public:
  explicit Cosines(int64_t size);
  double operator()(int64_t frequency, int64_t at) const;
  // A row for each frequency.
  Matrix rows(const std::vector<int64_t>& frequencies) const;

 private:
  int64_t size_;
  std::vector<double> table_;
};

// The frequencies from `begin` to `end`: the odd ones, then the odd multiples of 2, then the multiples of 4.
std::vector<int64_t> by_class(int64_t begin, int64_t end);
int64_t odd_ones(const std::vector<int64_t>& frequencies);

// a b, where the rows of b have short runs or a is small.
Matrix product(const Matrix& a, const Matrix& b);

}  // namespace ssg::cpu
