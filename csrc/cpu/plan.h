// A step as the CPU kernel computes it: its factors packed in the order in which the kernel reads them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "../step.h"

namespace ssg::cpu {

// What distinguishes one plan from another: the key of the cache.
struct PlanKey {
  StepKey step;
  int64_t max_rows = 6;  // output pairs that a kernel's registers hold
  bool operator==(const PlanKey& other) const { return step == other.step && max_rows == other.max_rows; }
};

// Output pairs are multiplied in chunks of at most `max_rows`, all of about the same size.
struct Chunk {
  int64_t begin = 0;
  int64_t rows = 0;
  int64_t offset = 0;  // into the packed coefficients: in_even x rows, then in_odd x rows
};

// The few non-zero entries of a banded factor's row: `even` taps, then `odd` taps.
template <class T>
struct Taps {
  int64_t even = 0;
  int64_t odd = 0;
  std::vector<int32_t> index;  // [pair][even + odd]
  std::vector<T> coefficient;
  int64_t count() const { return even + odd; }
};

// The coefficients of a step. The first contraction turns the coarse map x[i][j] into slots y[slot], one slot per term
// and coarse column. The second turns the slots of an output row into that row.
template <class T>
struct Plan {
  PlanKey key;
  Form form = Form::separable;
  Axis h;
  Axis w;
  int64_t terms = 0;

  // Slots of one row: the even columns of all dense w factors, their odd columns, then the banded ones.
  int64_t slots = 0;
  std::vector<int64_t> slot_even;  // [term]
  std::vector<int64_t> slot_odd;

  // First contraction. A block is a run of row pairs that are multiplied together.
  int64_t block_pairs = 0;
  int64_t blocks = 0;
  std::vector<int64_t> dense_terms;  // terms whose h factor is dense; row r of a block is pair r / n, term r % n
  std::vector<std::vector<Chunk>> block_chunks;
  std::vector<T> h_coefficients;
  std::vector<int64_t> banded_terms;
  std::vector<Taps<T>> h_taps;  // [banded term]

  // Second contraction.
  int64_t dense_even = 0;  // length of the dense product over even slots, and over odd ones
  int64_t dense_odd = 0;
  std::vector<Chunk> w_chunks;
  std::vector<T> w_coefficients;
  Taps<T> w_taps;

  int64_t multiply_adds = 0;  // per vocabulary column
  std::string describe() const;
};

// Throws std::invalid_argument for a key without meaning.
template <class T>
Plan<T> make_plan(const PlanKey& key);

// The plan of a key, built once and shared. Thread-safe.
template <class T>
std::shared_ptr<const Plan<T>> cached_plan(const PlanKey& key);

}  // namespace ssg::cpu
