// device/global.h on the host.
#pragma once

#include <cstdint>
#include <cstring>

#include "../device/base.h"
#include "fibers.h"

namespace ssg::cuda {

template <class V>
V load_cached(const V* from) {
  static_assert(sizeof(V) == 16);
  host::check_alignment(from, sizeof(V));
  return *from;
}
template <class V>
const V* constants(const void* data) {
  host::check_alignment(data, alignof(V));
  return static_cast<const V*>(data);
}
inline void bring_near(const void* at) { host::check_alignment(at, 4); }
inline int64_t global_address(const void* at) { return reinterpret_cast<int64_t>(at); }
template <class V>
V* global_place(int64_t address) {
  return reinterpret_cast<V*>(address);
}
template <class S>
void load_element(S& x, int64_t from) {
  host::check_alignment(reinterpret_cast<const S*>(from), sizeof(S));
  x = *reinterpret_cast<const S*>(from);
}
template <class S>
void store_element(int64_t to, S x) {
  host::check_alignment(reinterpret_cast<const S*>(to), sizeof(S));
  *reinterpret_cast<S*>(to) = x;
}
template <class V>
V load_once(const V* from) {
  host::check_alignment(from, sizeof(V));
  return *from;
}
template <class V>
void store_global(V* to, const V& value) {
  host::check_alignment(to, sizeof(V));
  *to = value;
}
inline void copy_async_16(void* shared, const void* global) {
  host::check_shared(shared, 16, 16);
  host::check_alignment(global, 16);
  host::copy_async(shared, global, 16);
}
inline void copy_async_commit() { host::copy_async_commit(); }
inline void copy_async_wait() { host::copy_async_wait(); }
template <int N>
void load_words(uint32_t (&x)[N], const void* from) {
  host::check_alignment(from, sizeof(x));
  std::memcpy(x, from, sizeof(x));
}
template <int N>
void store_words(void* to, const uint32_t (&x)[N]) {
  host::check_alignment(to, sizeof(x));
  std::memcpy(to, x, sizeof(x));
}

}  // namespace ssg::cuda
