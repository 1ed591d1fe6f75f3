// The kernel's body, compiled once per instruction set: each translation unit includes it inside its own namespace with
// its own flags, so nothing here may have external linkage outside SSG_NAMESPACE.
//
// A task is a few strips of vocabulary columns of one sample (or a group of their output rows). Their coarse maps are
// merged, scaled and brought to even/odd coordinates while they are loaded, and stay in cache; row pairs are contracted
// with the h factors into slots, slots with the w factors into registers, and the logits of this scale stream through
// the epilogue.

#include <algorithm>
#include <cstring>
#include <limits>

#include "kernel.h"
#include "scratch.h"
#include "vector.h"

namespace ssg::cpu::SSG_NAMESPACE {

#if SSG_VECTOR_BYTES == 64 || defined(__aarch64__)
constexpr int kMaxRows = 6;  // 6 rows x (even, odd) x 2 vectors = 24 of 32 registers
#else
constexpr int kMaxRows = 3;  // 12 of 16
#endif

// Outputs above this go past the cache: they would evict the logits that are still to be read.
constexpr int64_t kStreamBytes = int64_t{8} << 20;

// sum[r] += sum_k coefficient[k][r] * x[k]
template <class T, int R>
SSG_INLINE const T* contract(const T* x, int64_t stride, int64_t length, const T* coefficient, Strip<T> (&sum)[R]) {
  for (int64_t k = 0; k < length; ++k, x += stride, coefficient += R) {
    const Strip<T> value = Strip<T>::load(x);
    unroll<R>([&](auto r) SSG_INLINE_LAMBDA { sum[r].multiply_add(coefficient[r], value); });
  }
  return coefficient;
}

// Sources: how many current logits there are, 0 (the prior's part alone), 1, or 2 (conditional and unconditional).
template <class T, class S, int Sources>
class Task {
 public:
  static constexpr int64_t strip = Strip<T>::width;

  Task(const Plan<T>& plan, const Step& step, const Split& split) : plan_(plan), step_(step), split_(split) {
    // An even number of cache lines per row would map a column's rows to a few cache sets.
    row_stride_ = (plan.w.in | 1) * strip;
    map_stride_ = plan.h.in * row_stride_;
    // The dense form has one row, and its slots are the map itself.
    const bool dense = plan.form == Form::dense;
    slots_stride_ = dense ? map_stride_ : 2 * plan.block_pairs * plan.slots * strip;
    const int64_t staged = (Sources + 1) * plan.w.out * strip;
    const int64_t maps = split.strips * map_stride_;
    const int64_t slots = dense ? 0 : split.strips * slots_stride_;
    map_ = static_cast<T*>(
        scratch().get(static_cast<size_t>(maps + slots) * sizeof(T) + static_cast<size_t>(staged) * sizeof(S)));
    slots_ = dense ? map_ : map_ + maps;
    staged_ = reinterpret_cast<S*>(map_ + maps + slots);
    const int64_t bytes = step.batch * plan.h.out * plan.w.out * step.vocabulary * static_cast<int64_t>(sizeof(S));
    const auto aligned = [](int64_t elements) { return elements * static_cast<int64_t>(sizeof(S)) % 64 == 0; };
    stream_ = strip * sizeof(S) % 64 == 0 && bytes >= kStreamBytes &&
              reinterpret_cast<uintptr_t>(step.out.data) % 64 == 0 && aligned(step.out.token_stride) &&
              aligned(step.out.batch_stride) && step.out.data != step.current[0].data;
  }

  void run(int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t row_group = task % split_.row_groups;
      const int64_t column = task / split_.row_groups % split_.column_groups * split_.strips * strip;
      const int64_t batch = task / split_.row_groups / split_.column_groups;
      const int64_t columns = std::min(split_.strips * strip, step_.vocabulary - column);
      full_ = columns / strip;
      partial_ = columns % strip;
      for (int64_t s = 0; s < 2 * step_.sources; ++s) {
        const double weight = step_.weights[batch * 2 * step_.sources + s];
        weight_[s] = weight == weight ? static_cast<T>(weight) : std::numeric_limits<T>::quiet_NaN();
      }
      for (int64_t s = 0; s < step_.sources; ++s) {
        if (Sources > 0) current_[s] = at(step_.current[s], batch, column);
        previous_[s] = at(step_.previous[s], batch, column);
      }
      out_ = const_cast<S*>(at(step_.out, batch, column));

      // The next task's coarse map is fetched meanwhile.
      const int64_t next = task + 1;
      const int64_t next_column = next / split_.row_groups % split_.column_groups * split_.strips * strip;
      const int64_t next_batch = next / split_.row_groups / split_.column_groups;
      next_bytes_ =
          row_group + 1 < split_.row_groups || next >= end
              ? 0
              : std::min(split_.strips * strip, step_.vocabulary - next_column) * static_cast<int64_t>(sizeof(S));
      for (int64_t s = 0; s < step_.sources && next_bytes_ > 0; ++s)
        next_previous_[s] = at(step_.previous[s], next_batch, next_column);

      load_map();
      const int64_t first = row_group * plan_.blocks / split_.row_groups;
      const int64_t last = (row_group + 1) * plan_.blocks / split_.row_groups;
      for (int64_t block = first; block < last; ++block) {
        prefetch_previous(block);
        if (plan_.form == Form::separable) fill_slots(block);
        for (int64_t pair = block * plan_.block_pairs; pair < block_end(block); ++pair) {
          const T* slots = slots_ + 2 * (pair - block * plan_.block_pairs) * plan_.slots * strip;
          write_row(pair, slots);
          if (plan_.h.mirror(pair) != pair) write_row(plan_.h.mirror(pair), slots + plan_.slots * strip);
        }
      }
    }
    store_fence();
  }

 private:
  static const S* at(const Logits& logits, int64_t batch, int64_t column) {
    return static_cast<const S*>(logits.data) + batch * logits.batch_stride + column;
  }

  int64_t block_end(int64_t block) const { return std::min((block + 1) * plan_.block_pairs, plan_.h.pairs()); }

  // Strips of this task, the last of which may be cut short by the end of the vocabulary.
  int64_t strips() const { return full_ + (partial_ > 0); }

  // Loading

  SSG_INLINE Strip<T> load_previous(const S* from, int64_t g) const {
    if (__builtin_expect(g < full_, 1)) return Convert<T, S>::load(from + g * strip);
    alignas(64) S padded[strip] = {};
    std::memcpy(padded, from + g * strip, static_cast<size_t>(partial_) * sizeof(S));
    return Convert<T, S>::load(padded);
  }

  SSG_INLINE Strip<T> load_coarse(int64_t i, int64_t j, int64_t g) const {
    const int64_t token = i * plan_.w.in + j;
    Strip<T> value =
        load_previous(previous_[0] + token * step_.previous[0].token_stride, g).times(weight_[step_.sources]);
    if (Sources == 2)
      value.multiply_add(weight_[3], load_previous(previous_[1] + token * step_.previous[1].token_stride, g));
    return value;
  }

  // a, b = a + b, a - b
  static SSG_INLINE void butterfly(Strip<T>& a, Strip<T>& b) {
    const Strip<T> sum = a.plus(b);
    b = a.minus(b);
    a = sum;
  }

  void load_map() {
    const Axis& h = plan_.h;
    const Axis& w = plan_.w;
    const int64_t odd_i = h.in_even() * row_stride_;
    const int64_t odd_j = w.in_even() * strip;
    for (int64_t i = 0; i < h.in_even(); ++i) {
      const bool pair_h = i < h.in_odd();
      for (int64_t j = 0; j < w.in_even(); ++j) {
        const bool pair_w = j < w.in_odd();
        for (int64_t g = 0; g < strips(); ++g) {
          T* to = map_ + g * map_stride_ + i * row_stride_ + j * strip;
          Strip<T> ee = load_coarse(i, j, g);
          Strip<T> eo = pair_w ? load_coarse(i, w.in - 1 - j, g) : Strip<T>::zero();
          Strip<T> oe = pair_h ? load_coarse(h.in - 1 - i, j, g) : Strip<T>::zero();
          Strip<T> oo = pair_h && pair_w ? load_coarse(h.in - 1 - i, w.in - 1 - j, g) : Strip<T>::zero();
          if (pair_w) {
            butterfly(ee, eo);
            butterfly(oe, oo);
          }
          if (pair_h) {
            butterfly(ee, oe);
            butterfly(eo, oo);
            oe.store(to + odd_i);
            if (pair_w) oo.store(to + odd_i + odd_j);
          }
          if (pair_w) eo.store(to + odd_j);
          ee.store(to);
        }
      }
    }
  }

  template <int Write>
  static SSG_INLINE void prefetch(const S* from, int64_t bytes) {
    for (int64_t byte = 0; byte < bytes; byte += 64)
      __builtin_prefetch(reinterpret_cast<const char*>(from) + byte, Write);
  }

  // A share of the next task's coarse map, spread over the blocks of this one: its rows lie far apart, where no
  // hardware prefetcher follows.
  void prefetch_previous(int64_t block) const {
    if (next_bytes_ == 0) return;
    const int64_t tokens = plan_.h.in * plan_.w.in;
    for (int64_t token = block * tokens / plan_.blocks; token < (block + 1) * tokens / plan_.blocks; ++token)
      for (int64_t s = 0; s < step_.sources; ++s)
        prefetch<0>(next_previous_[s] + token * step_.previous[s].token_stride, next_bytes_);
  }

  // First contraction

  SSG_INLINE int64_t slot_of(int64_t term, int64_t j) const {
    const int64_t even = plan_.w.in_even();
    return j < even ? plan_.slot_even[term] + j : plan_.slot_odd[term] + j - even;
  }

  // p + q goes to the slots of an output row, p - q to those of its mirror.
  SSG_INLINE void put_slots(T* to, const Strip<T>& p, const Strip<T>& q) const {
    p.plus(q).store(to);
    p.minus(q).store(to + plan_.slots * strip);
  }

  template <int R>
  void fill_dense(const Chunk& chunk) const {
    const int64_t terms = static_cast<int64_t>(plan_.dense_terms.size());
    for (int64_t j = 0; j < plan_.w.in; ++j) {
      int64_t to[R];
      for (int r = 0; r < R; ++r) {
        const int64_t row = chunk.begin + r;
        to[r] = (2 * (row / terms) * plan_.slots + slot_of(plan_.dense_terms[row % terms], j)) * strip;
      }
      for (int64_t g = 0; g < strips(); ++g) {
        Strip<T> p[R];
        Strip<T> q[R];
        unroll<R>([&](auto r) SSG_INLINE_LAMBDA { p[r] = q[r] = Strip<T>::zero(); });
        const T* x = map_ + g * map_stride_ + j * strip;
        const T* odd = contract<T, R>(x, row_stride_, plan_.h.in_even(), plan_.h_coefficients.data() + chunk.offset, p);
        contract<T, R>(x + plan_.h.in_even() * row_stride_, row_stride_, plan_.h.in_odd(), odd, q);
        T* slots = slots_ + g * slots_stride_;
        unroll<R>([&](auto r) SSG_INLINE_LAMBDA { put_slots(slots + to[r], p[r], q[r]); });
      }
    }
  }

  void fill_banded(int64_t first, int64_t pairs, int64_t term, const Taps<T>& taps) const {
    for (int64_t pair = 0; pair < pairs; ++pair) {
      const int32_t* index = taps.index.data() + (first + pair) * taps.count();
      const T* coefficient = taps.coefficient.data() + (first + pair) * taps.count();
      for (int64_t j = 0; j < plan_.w.in; ++j) {
        const int64_t to = (2 * pair * plan_.slots + slot_of(term, j)) * strip;
        for (int64_t g = 0; g < strips(); ++g) {
          const T* x = map_ + g * map_stride_ + j * strip;
          Strip<T> p = Strip<T>::zero();
          Strip<T> q = Strip<T>::zero();
          int64_t tap = 0;
          for (; tap < taps.even; ++tap) p.multiply_add(coefficient[tap], Strip<T>::load(x + index[tap] * row_stride_));
          for (; tap < taps.count(); ++tap)
            q.multiply_add(coefficient[tap], Strip<T>::load(x + index[tap] * row_stride_));
          put_slots(slots_ + g * slots_stride_ + to, p, q);
        }
      }
    }
  }

  void fill_slots(int64_t block) const {
    for (const Chunk& chunk : plan_.block_chunks[static_cast<size_t>(block)]) {
      switch (chunk.rows) {
        case 1: fill_dense<1>(chunk); break;
        case 2: fill_dense<2>(chunk); break;
        case 3: fill_dense<3>(chunk); break;
        case 4: fill_dense<4>(chunk); break;
        case 5: fill_dense<5>(chunk); break;
        case 6: fill_dense<6>(chunk); break;
      }
    }
    const int64_t first = block * plan_.block_pairs;
    for (size_t b = 0; b < plan_.banded_terms.size(); ++b)
      fill_banded(first, block_end(block) - first, plan_.banded_terms[b], plan_.h_taps[b]);
  }

  // Second contraction

  // One output row's logits: in place, or staged where the strip is cut short by the end of the vocabulary.
  struct Row {
    const S* current[2];
    int64_t current_stride[2];
    S* out;
    int64_t out_stride;
    int64_t to_next;  // tokens to the row that follows, 0 for none
    bool stream;      // write past the cache
  };

  void write_row(int64_t row, const T* slots) const {
    const int64_t token = row * plan_.w.out;
    Row at = {};
    for (int s = 0; s < Sources; ++s) {
      at.current[s] = current_[s] + token * step_.current[s].token_stride;
      at.current_stride[s] = step_.current[s].token_stride;
    }
    at.out = out_ + token * step_.out.token_stride;
    at.out_stride = step_.out.token_stride;
    // Rows are taken in pairs from the outside in.
    const bool mirrored = plan_.h.symmetric && 2 * row >= plan_.h.out;
    const bool last = mirrored ? 2 * (row - 1) < plan_.h.out : row + 1 >= plan_.h.pairs();
    at.to_next = last ? 0 : mirrored ? -plan_.w.out : plan_.w.out;
    at.stream = stream_;
    write_strips(at, slots, full_);
    if (partial_ == 0) return;

    const size_t bytes = static_cast<size_t>(partial_) * sizeof(S);
    for (int s = 0; s < Sources; ++s) {
      S* staged = staged_ + (s + 1) * plan_.w.out * strip;
      for (int64_t c = 0; c < plan_.w.out; ++c)
        std::memcpy(staged + c * strip, at.current[s] + full_ * strip + c * at.current_stride[s], bytes);
      at.current[s] = staged;
      at.current_stride[s] = strip;
    }
    S* out = at.out + full_ * strip;
    at.out = staged_;
    at.out_stride = strip;
    at.to_next = 0;
    at.stream = false;
    write_strips(at, slots + full_ * slots_stride_, 1);
    for (int64_t c = 0; c < plan_.w.out; ++c) std::memcpy(out + c * step_.out.token_stride, staged_ + c * strip, bytes);
  }

  void write_strips(const Row& row, const T* slots, int64_t count) const {
    const size_t chunks = plan_.w_chunks.size();
    for (size_t c = 0; c < chunks; ++c) {
      const Chunk& chunk = plan_.w_chunks[c];
      // Rows are too far apart, and many of them too long, for a cache to hold the next one: the next chunk is fetched.
      const bool wraps = c + 1 == chunks;
      const Chunk* next = wraps && row.to_next == 0 ? nullptr : &plan_.w_chunks[wraps ? 0 : c + 1];
      const int64_t to_next = wraps ? row.to_next : 0;
      switch (chunk.rows) {
        case 1: write_chunk<1>(row, chunk, slots, count, next, to_next); break;
        case 2: write_chunk<2>(row, chunk, slots, count, next, to_next); break;
        case 3: write_chunk<3>(row, chunk, slots, count, next, to_next); break;
        case 4: write_chunk<4>(row, chunk, slots, count, next, to_next); break;
        case 5: write_chunk<5>(row, chunk, slots, count, next, to_next); break;
        case 6: write_chunk<6>(row, chunk, slots, count, next, to_next); break;
      }
    }
  }

  // Where the tokens of some output pairs lie, and those of their mirrors.
  template <int N>
  struct Tokens {
    int64_t at[2 * N];
    void set(const Axis& axis, int64_t first, int64_t count, int64_t shift, int64_t stride) {
      for (int64_t r = 0; r < count; ++r) {
        at[2 * r] = (shift + first + r) * stride;
        at[2 * r + 1] = (shift + axis.mirror(first + r)) * stride;
      }
    }
  };

  SSG_INLINE void finish(const Row& row, int64_t from, int64_t from_other, int64_t to, Strip<T> value) const {
    if constexpr (Sources > 0) {
      const Strip<T> logit = Convert<T, S>::load(row.current[0] + from);
      value.multiply_add(weight_[0], logit);
      if constexpr (Sources == 2) value.multiply_add(weight_[1], Convert<T, S>::load(row.current[1] + from_other));
      value.keep_minus_infinity(logit);
    }
    if (row.stream)
      Convert<T, S>::stream(row.out + to, value);
    else
      Convert<T, S>::store(row.out + to, value);
  }

  template <int R>
  void write_chunk(const Row& row, const Chunk& chunk, const T* slots, int64_t count, const Chunk* next,
                   int64_t to_next) const {
    const Axis& w = plan_.w;
    Tokens<R> from[2];
    Tokens<R> to;
    Tokens<kMaxRows> fetch[2];
    Tokens<kMaxRows> fetch_out;
    const int64_t fetched = next == nullptr ? 0 : 2 * next->rows;
    for (int s = 0; s < Sources; ++s) {
      from[s].set(w, chunk.begin, R, 0, row.current_stride[s]);
      if (fetched > 0) fetch[s].set(w, next->begin, next->rows, to_next, row.current_stride[s]);
    }
    to.set(w, chunk.begin, R, 0, row.out_stride);
    if (fetched > 0) fetch_out.set(w, next->begin, next->rows, to_next, row.out_stride);

    const Taps<T>& taps = plan_.w_taps;
    const int32_t* index = taps.index.data() + chunk.begin * taps.count();
    const T* tap_coefficient = taps.coefficient.data() + chunk.begin * taps.count();
    const T* coefficient = plan_.w_coefficients.data() + chunk.offset;
    for (int64_t g = 0; g < count; ++g, slots += slots_stride_) {
      const int64_t offset = g * strip;
      for (int64_t c = 0; c < fetched; ++c) {
        for (int s = 0; s < Sources; ++s) prefetch<0>(row.current[s] + fetch[s].at[c] + offset, strip * sizeof(S));
        if (!row.stream) prefetch<1>(row.out + fetch_out.at[c] + offset, strip * sizeof(S));
      }
      Strip<T> p[R];
      Strip<T> q[R];
      unroll<R>([&](auto r) SSG_INLINE_LAMBDA { p[r] = q[r] = Strip<T>::zero(); });
      const T* odd = contract<T, R>(slots, strip, plan_.dense_even, coefficient, p);
      contract<T, R>(slots + plan_.dense_even * strip, strip, plan_.dense_odd, odd, q);
      for (int64_t tap = 0; tap < taps.even; ++tap)
        unroll<R>([&](auto r) SSG_INLINE_LAMBDA {
          const int64_t at = r * taps.count() + tap;
          p[r].multiply_add(tap_coefficient[at], Strip<T>::load(slots + index[at] * strip));
        });
      for (int64_t tap = taps.even; tap < taps.count(); ++tap)
        unroll<R>([&](auto r) SSG_INLINE_LAMBDA {
          const int64_t at = r * taps.count() + tap;
          q[r].multiply_add(tap_coefficient[at], Strip<T>::load(slots + index[at] * strip));
        });
      unroll<R>([&](auto r) SSG_INLINE_LAMBDA {
        const int left = 2 * r;
        const int right = 2 * r + 1;
        finish(row, from[0].at[left] + offset, from[1].at[left] + offset, to.at[left] + offset, p[r].plus(q[r]));
        // The middle output has no mirror.
        if (to.at[right] != to.at[left])
          finish(row, from[0].at[right] + offset, from[1].at[right] + offset, to.at[right] + offset, p[r].minus(q[r]));
      });
    }
  }

  const Plan<T>& plan_;
  const Step& step_;
  const Split& split_;
  int64_t row_stride_;
  int64_t map_stride_;
  int64_t slots_stride_;
  bool stream_;
  T* map_;    // [strip of the task][coarse row][coarse column][strip]
  T* slots_;  // [strip of the task][output row of the block][slot][strip]
  S* staged_;

  int64_t full_ = 0;
  int64_t partial_ = 0;
  T weight_[4] = {};
  const S* current_[2] = {};
  const S* previous_[2] = {};
  const S* next_previous_[2] = {};
  int64_t next_bytes_ = 0;
  S* out_ = nullptr;
};

template <class T, class S>
void run_as(const Plan<T>& plan, const Step& step, const Split& split, int64_t begin, int64_t end) {
  if (step.current[0].data == nullptr) return Task<T, S, 0>(plan, step, split).run(begin, end);
  if (step.sources == 1) return Task<T, S, 1>(plan, step, split).run(begin, end);
  return Task<T, S, 2>(plan, step, split).run(begin, end);
}

void run_float(const Plan<float>& plan, const Step& step, const Split& split, int64_t begin, int64_t end) {
  switch (step.scalar) {
    case Scalar::float32: return run_as<float, float>(plan, step, split, begin, end);
    case Scalar::bfloat16: return run_as<float, BFloat16>(plan, step, split, begin, end);
    case Scalar::float16: return run_as<float, Float16>(plan, step, split, begin, end);
    case Scalar::float64: break;
  }
}

void run_double(const Plan<double>& plan, const Step& step, const Split& split, int64_t begin, int64_t end) {
  run_as<double, double>(plan, step, split, begin, end);
}

int64_t sample_rows(const Sampling& sampling, int64_t begin, int64_t end);  // in sample_impl.h

extern const Kernel kKernel;
const Kernel kKernel = {SSG_NAME,  kMaxRows,   Strip<float>::width, Strip<double>::width,
                        run_float, run_double, sample_rows};

}  // namespace ssg::cpu::SSG_NAMESPACE
