// Logits in memory of exactly the size that they need.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

#include "call.h"
#include "numbers.h"

namespace ssg::test {

enum class Layout { contiguous, padded, tokens_first, one_sample, one_token };

// (batch, tokens, vocabulary) logits in an allocation that ends with their last element. What lies between them is NaN.
class Buffer {
 public:
  Buffer(Scalar scalar, int64_t batch, int64_t tokens, int64_t vocabulary, Layout layout, int64_t offset)
      : scalar_(scalar), batch_(batch), tokens_(tokens), vocabulary_(vocabulary) {
    const int64_t gap = layout == Layout::contiguous ? 0 : 3;
    token_stride_ = vocabulary + gap;
    batch_stride_ = (tokens + gap) * token_stride_;
    if (layout == Layout::tokens_first) {
      batch_stride_ = vocabulary + gap;
      token_stride_ = batch * batch_stride_;
    }
    if (layout == Layout::one_sample) batch_stride_ = 0;
    if (layout == Layout::one_token) token_stride_ = 0;
    const int64_t elements =
        batch == 0 ? 0 : offset + (batch - 1) * batch_stride_ + (tokens - 1) * token_stride_ + vocabulary;
    void* memory = nullptr;
    if (posix_memalign(&memory, 64, static_cast<size_t>(elements * number(scalar).bytes)) != 0) std::abort();
    memory_.reset(static_cast<char*>(memory));
    bytes_ = static_cast<size_t>(elements * number(scalar).bytes);
    std::memset(memory, 0xff, bytes_);
    data_ = memory_.get() + offset * number(scalar).bytes;
  }

  char* at(int64_t b, int64_t t, int64_t v) const {
    return data_ + (b * batch_stride_ + t * token_stride_ + v) * number(scalar_).bytes;
  }
  double get(int64_t b, int64_t t, int64_t v) const { return decode(at(b, t, v), scalar_); }
  void set(int64_t b, int64_t t, int64_t v, double value) const { encode(at(b, t, v), value, scalar_); }

  template <class F>
  void each(const F& f) const {
    for (int64_t b = 0; b < batch_; ++b)
      for (int64_t t = 0; t < tokens_; ++t)
        for (int64_t v = 0; v < vocabulary_; ++v) f(b, t, v);
  }

  ssg::Logits view() const { return {data_, batch_stride_, token_stride_}; }
  std::string bytes() const { return {memory_.get(), bytes_}; }
  void restore(const std::string& bytes) const {
    if (bytes_ > 0) std::memcpy(memory_.get(), bytes.data(), bytes_);
  }

  // All bytes, with those of the elements set to zero.
  std::string rest() const {
    std::string rest = bytes();
    const size_t row = static_cast<size_t>(vocabulary_ * number(scalar_).bytes);
    for (int64_t b = 0; b < batch_; ++b)
      for (int64_t t = 0; t < tokens_; ++t)
        std::memset(&rest[static_cast<size_t>(at(b, t, 0) - memory_.get())], 0, row);
    return rest;
  }

 private:
  struct Free {
    void operator()(char* memory) const { std::free(memory); }
  };
  Scalar scalar_;
  int64_t batch_;
  int64_t tokens_;
  int64_t vocabulary_;
  int64_t batch_stride_;
  int64_t token_stride_;
  size_t bytes_;
  std::unique_ptr<char, Free> memory_;
  char* data_;
};

}  // namespace ssg::test
