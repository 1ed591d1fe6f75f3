// device/shared.h on the host.
#pragma once

#include <cstdint>
#include <cstring>

#include "../device/base.h"
#include "fibers.h"

namespace ssg::cuda {

inline unsigned char* shared_memory() { return host::current().block->shared; }
template <class V>
V load_shared(const V* from) {
  host::check_shared(from, sizeof(V), alignof(V));
  return *from;
}
template <class V>
void store_shared(V* to, const V& value) {
  host::check_shared(to, sizeof(V), alignof(V));
  *to = value;
}
inline void add_shared(uint32_t* low, uint32_t* high, uint64_t x) {
  host::check_shared(low, 4, 4);
  host::check_shared(high, 4, 4);
  const uint64_t sum = *low + (x & 0xffffffffu);
  *low = static_cast<uint32_t>(sum);
  *high += static_cast<uint32_t>(x >> 32) + static_cast<uint32_t>(sum >> 32);
}
using SharedAddress = uint32_t;
inline SharedAddress shared_address(const void* at) {
  return static_cast<SharedAddress>(static_cast<const unsigned char*>(at) - shared_memory());
}
template <class T>
T* shared_at(SharedAddress at) {
  auto* found = reinterpret_cast<T*>(shared_memory() + at);
  host::check_shared(found, sizeof(T), sizeof(T));
  return found;
}
inline void count_shared_if(uint32_t x, uint32_t high, SharedAddress to) {
  if (x <= high) ++*shared_at<uint32_t>(to);
}
template <int kApart>
void add_shared_if(uint32_t x, uint32_t low, SharedAddress to, uint64_t number) {
  if (x < low) return;
  *shared_at<uint32_t>(to) += static_cast<uint32_t>(number & 0xfffffu);
  *shared_at<uint32_t>(to + kApart) += static_cast<uint32_t>(number >> 20);
}
template <class T>
void append_shared_unless(T x, T low, SharedAddress& to) {
  if (x < low) return;
  *shared_at<T>(to) = x;
  to += sizeof(T);
}
inline uint32_t claim_shared(uint32_t* to) {
  host::check_shared(to, 4, 4);
  return (*to)++;
}

// Addresses in shared memory count from its start.
inline uint32_t shared_base() { return 0; }
inline unsigned char* shared_at(uint32_t at, size_t bytes) {
  unsigned char* pointer = shared_memory() + at;
  host::check_shared(pointer, bytes, bytes);
  return pointer;
}
template <int N>
void write_shared(uint32_t at, const uint32_t (&x)[N]) {
  std::memcpy(shared_at(at, sizeof(x)), x, sizeof(x));
}

// A place in shared memory; load_shared and store_shared check it.
template <class V>
V* shared_pointer(uint32_t at) {
  return reinterpret_cast<V*>(shared_memory() + at);
}

}  // namespace ssg::cuda
