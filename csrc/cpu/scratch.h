// Memory that a thread keeps from one task to the next.
// Included inside one namespace per instruction set; see kernel_impl.h.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <new>

#include "memory.h"

namespace ssg::cpu::SSG_NAMESPACE {

class Scratch {
 public:
  ~Scratch() { std::free(data_); }
  void* get(size_t bytes) {
    if (bytes > size_) {
      std::free(data_);
      size_ = bytes;
      data_ = allocate_scratch(bytes);
      if (data_ == nullptr) {
        size_ = 0;
        throw std::bad_alloc();
      }
    }
    return data_;
  }

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
};

inline Scratch& scratch() {
  static thread_local Scratch instance;
  return instance;
}

}  // namespace ssg::cpu::SSG_NAMESPACE
