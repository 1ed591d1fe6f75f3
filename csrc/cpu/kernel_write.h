// The kernel: from the prepared maps of a visit to output rows, and the epilogue.
// Included inside one namespace per instruction set; see kernel_impl.h.
#pragma once

#include "kernel_task.h"

namespace ssg::cpu::SSG_NAMESPACE {

template <class T, class S, int Sources>
inline void Task<T, S, Sources>::write_group(int64_t group, int64_t next_group) const {
  if (plan_.h.empty()) return write(group, map_ + group * row_stride_, next_group);
  const Chunk& rows = plan_.h[0].chunks[static_cast<size_t>(group)];
  for (const Columns& columns : plan_.columns) {
    const Expansion<T>& h = plan_.h[static_cast<size_t>(columns.factor)];
    for (int64_t g = 0; g < strips_; ++g) {
      const T* map = map_ + g * strip_stride_;
      T* slots = slots_ + g * strip_stride_;
      expand(h, h.chunks[static_cast<size_t>(group)],
             Streams<T>{map + columns.from * strip, row_stride_, strip, columns.count},
             Store<T>{slots + columns.to * strip, slots_stride_, strip, Places(0, rows.outputs)});
    }
  }
  const T* slots = slots_;
  int64_t row = rows.runs[0].begin;
  for (size_t run = 0; run < rows.runs.size(); ++run)
    for (int64_t i = 0; i < rows.runs[run].count; ++i, slots += slots_stride_) {
      int64_t next = -1;
      if (i + 1 < rows.runs[run].count)
        next = row + 1;
      else if (run + 1 < rows.runs.size() && rows.runs[run + 1].count > 0)
        next = rows.runs[run + 1].begin;
      else if (next_group >= 0)
        next = plan_.h[0].chunks[static_cast<size_t>(next_group)].begin;
      write(row, slots, next);
      row = next;
    }
}

template <class T, class S, int Sources>
struct Task<T, S, Sources>::Tokens {
  int64_t row;  // -1 for none
  const Chunk::Run* begin;
  const Chunk::Run* end;
};

// The tokens of a row that are computed together, and those that come after them.
template <class T, class S, int Sources>
struct Task<T, S, Sources>::Part {
  const Task* task;
  Tokens now;
  Tokens next;
  const T* begun;        // their dense part, or null
  int64_t begun_stride;  // from strip to strip
};

// Writes one row, a few tokens at a time. As soon as a strip of them is computed, or a few strips, it is finished, and
// meanwhile the logits of the same strips of the next tokens are fetched: tokens lie too far apart for a hardware
// prefetcher. Stores and fetches alternate with arithmetic, because memory serves neither of them fast in bursts.
template <class T, class S, int Sources>
inline void Task<T, S, Sources>::write(int64_t row, const T* slots, int64_t next_row) const {
  const Finish finish = finish_of(plan_.h_taps.count);
  const auto tokens = [](int64_t row, const std::vector<Chunk::Run>& runs) -> Tokens {
    return {row, runs.data(), runs.data() + runs.size()};
  };
  if (!split_.fetches) next_row = -1;
  const std::vector<Chunk>& chunks = plan_.w.chunks;
  if (chunks.empty()) {
    const Chunk::Run all = {0, plan_.out_w};
    const Part part = {this, {row, &all, &all + 1}, {next_row, &all, &all + 1}, nullptr, 0};
    for (int64_t g = 0; g < strips_; g += split_.finished) finish(&part, g, std::min(split_.finished, strips_ - g));
    return;
  }
  const Streams<T> streams = {slots, strip, strip_stride_, strips_};
  for (size_t c = 0; c < chunks.size(); ++c) {
    const bool last = c + 1 == chunks.size();
    const int64_t after = last ? next_row : split_.fetches ? row : -1;
    const Part part = {this, tokens(row, chunks[c].runs), tokens(after, chunks[last ? 0 : c + 1].runs), begun_,
                       chunks[c].outputs * strip};
    const Store<T> store = {begun_, strip, part.begun_stride, Places(0, chunks[c].outputs)};
    expand(plan_.w, chunks[c], streams, StoreAndFinish<T>{store, split_.finished - 1, strips_ - 1, finish, &part});
  }
}

template <class T, class S, int Sources>
inline typename Task<T, S, Sources>::Finish Task<T, S, Sources>::finish_of(int64_t taps) const {
  const bool several = split_.finished > 1;
  switch (taps) {
    case 0: return several ? finish<0, true> : finish<0, false>;
    case 1: return several ? finish<1, true> : finish<1, false>;
    case 2: return several ? finish<2, true> : finish<2, false>;
    case 3: return several ? finish<3, true> : finish<3, false>;
    case 4: return several ? finish<4, true> : finish<4, false>;
    case 5: return several ? finish<5, true> : finish<5, false>;
    case 6: return several ? finish<6, true> : finish<6, false>;
    case 7: return several ? finish<7, true> : finish<7, false>;
    case 8: return several ? finish<8, true> : finish<8, false>;
    default: return several ? finish<kMostTaps + 1, true> : finish<kMostTaps + 1, false>;
  }
}

template <class T, class S, int Sources>
template <int Count, bool Several>
void Task<T, S, Sources>::finish(const void* context, int64_t first, int64_t strips) {
  if (!Several) strips = 1;
  // What the loop needs lies in variables of its own: a store of logits could change a member.
  const Part& part = *static_cast<const Part*>(context);
  const Task& task = *part.task;
  constexpr int kFixed = Count > kMostTaps ? kMostTaps : Count;
  const Taps<T>& taps = task.plan_.h_taps;
  const int64_t count = Count > kMostTaps ? taps.count : Count;
  const int64_t length = task.plan_.out_w * strip;
  const int64_t strip_stride = task.strip_stride_;
  const int32_t* index = taps.index.data() + part.now.row * count;
  const T* coefficients = taps.coefficient.data() + part.now.row * count;
  const T* addend = task.map_ + task.map_size_ + first * strip_stride;
  T coefficient[kFixed + 1];
  const T* taken[kFixed + 1];
  for (int k = 0; k < kFixed; ++k) {
    coefficient[k] = coefficients[k];
    taken[k] = addend + index[k] * length;
  }
  const T weights[2] = {task.weight_[0], task.weight_[1]};
  const int64_t full = std::min(strips, task.full_ - first);
  const bool stream = task.stream_;
  const int64_t out_step = task.out_step_w_ * task.call_.out.token_stride;
  int64_t current_step[2] = {};
  for (int s = 0; s < Sources; ++s) current_step[s] = task.out_step_w_ * task.call_.current[s].token_stride;
  if (part.next.row >= 0) task.fetch(part.next, first, strips);
  const T* begun = part.begun;
  const int64_t begun_stride = part.begun_stride;
  for (const Chunk::Run* run = part.now.begin; run != part.now.end; ++run) {
    const int64_t token = part.now.row * task.out_step_h_ + run->begin * task.out_step_w_;
    const S* current[2] = {};
    for (int s = 0; s < Sources; ++s)
      current[s] = task.current_[s] + token * task.call_.current[s].token_stride + first * strip;
    S* out = task.out_ + token * task.call_.out.token_stride + first * strip;
    int64_t at = run->begin * strip;
    for (const int64_t end = at + run->count * strip; at < end; at += strip) {
      for (int64_t g = 0; g < strips; ++g) {
        Strip<T> value = Strip<T>::zero();
        if (begun != nullptr) value = Strip<T>::load(begun + g * begun_stride);
        const int64_t from = at + g * strip_stride;
        unroll<kFixed>([&](auto k)
                           SSG_INLINE_LAMBDA { value.multiply_add(coefficient[k], Strip<T>::load(taken[k] + from)); });
        if constexpr (Count > kMostTaps)
          for (int64_t k = kMostTaps; k < count; ++k)
            value.multiply_add(coefficients[k], Strip<T>::load(addend + index[k] * length + from));
        const S* logits[2] = {};
        for (int s = 0; s < Sources; ++s) logits[s] = current[s] + g * strip;
        if (__builtin_expect(g >= full, 0)) {
          const Strip<T> copy = value;  // so that no other strip has to be in memory
          task.finish_partial(copy, logits, out + g * strip);
        } else if (stream) {
          Convert<T, S>::stream(out + g * strip, guided(value, logits, weights));
        } else {
          Convert<T, S>::store(out + g * strip, guided(value, logits, weights));
        }
      }
      if (begun != nullptr) begun += strip;
      for (int s = 0; s < Sources; ++s) current[s] += current_step[s];
      out += out_step;
    }
  }
}

// Fetches the logits of strips into the second-level cache, a token's strips one after the other.
template <class T, class S, int Sources>
SSG_INLINE void Task<T, S, Sources>::fetch(const Tokens& tokens, int64_t g, int64_t strips) const {
  for (const Chunk::Run* run = tokens.begin; run != tokens.end; ++run) {
    const int64_t token = tokens.row * out_step_h_ + run->begin * out_step_w_;
    for (int s = 0; s < Sources; ++s) {
      const S* from = current_[s] + token * call_.current[s].token_stride + g * strip;
      const int64_t step = out_step_w_ * call_.current[s].token_stride;
      for (int64_t i = 0; i < run->count; ++i, from += step)
        for (int64_t at = 0; at < strips * strip; at += 64 / static_cast<int64_t>(sizeof(S)))
          __builtin_prefetch(from + at, 0, 2);
    }
  }
}

template <class T, class S, int Sources>
SSG_INLINE Strip<T> Task<T, S, Sources>::guided(Strip<T> value, const S* const (&current)[2], const T (&weights)[2]) {
  if constexpr (Sources > 0) {
    const Strip<T> logit = Convert<T, S>::load(current[0]);
    value.multiply_add(weights[0], logit);
    if constexpr (Sources == 2) value.multiply_add(weights[1], Convert<T, S>::load(current[1]));
    value.keep_minus_infinity(logit);
  }
  return value;
}

// Where the vocabulary ends within the strip.
template <class T, class S, int Sources>
void Task<T, S, Sources>::finish_partial(const Strip<T>& value, const S* const (&current)[2], S* out) const {
  alignas(64) S staged[3][strip] = {};
  const size_t bytes = static_cast<size_t>(partial_) * sizeof(S);
  for (int s = 0; s < Sources; ++s) std::memcpy(staged[s], current[s], bytes);
  Convert<T, S>::store(staged[2], guided(value, {staged[0], staged[1]}, {weight_[0], weight_[1]}));
  std::memcpy(out, staged[2], bytes);
}

}  // namespace ssg::cpu::SSG_NAMESPACE
