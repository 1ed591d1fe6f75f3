#include "plan.h"

#include <algorithm>
#include <mutex>
#include <sstream>
#include <stdexcept>
#include <tuple>
#include <unordered_map>
#include <utility>

#include "forms/cheapest.h"

namespace ssg::cpu {
namespace {

// ---- coefficients in the dtype that the kernel computes in ----------------------------------------------------------

template <class T>
std::vector<T> rounded(const std::vector<double>& values) {
  return std::vector<T>(values.begin(), values.end());
}

template <class T>
Expansion<T> rounded(const Expansion<double>& from) {
  Expansion<T> to;
  to.out = from.out;
  to.folds = from.folds;
  std::copy(from.lengths, from.lengths + kMostFolds + 1, to.lengths);
  to.chunks = from.chunks;
  to.coefficients = rounded<T>(from.coefficients);
  return to;
}

template <class T>
Transform<T> rounded(const Transform<double>& from) {
  Transform<T> to;
  for (const Block<double>& block : from) to.push_back({block.in, block.out, rounded<T>(block.matrix)});
  return to;
}

template <class T>
Taps<T> rounded(const Taps<double>& from) {
  return {from.count, from.index, rounded<T>(from.coefficient)};
}

template <class T>
Plan<T> rounded(const Plan<double>& from) {
  Plan<T> to;
  to.key = from.key;
  to.structure = from.structure;
  to.swapped = from.swapped;
  to.in_h = from.in_h;
  to.in_w = from.in_w;
  to.out_h = from.out_h;
  to.out_w = from.out_w;
  to.row = from.row;
  to.pairs_h = from.pairs_h;
  to.pairs_w = from.pairs_w;
  to.lift_h = rounded<T>(from.lift_h);
  to.lifted = from.lifted;
  to.w_taps = rounded<T>(from.w_taps);
  to.h_taps = rounded<T>(from.h_taps);
  to.folds_h = from.folds_h;
  to.folds_w = from.folds_w;
  to.spectrum_h = rounded<T>(from.spectrum_h);
  to.spectrum_w = rounded<T>(from.spectrum_w);
  to.groups = from.groups;
  to.bracket_h = rounded<T>(from.bracket_h);
  to.bracket_w = rounded<T>(from.bracket_w);
  to.lift_w = rounded<T>(from.lift_w);
  to.columns = from.columns;
  for (const Expansion<double>& factor : from.h) to.h.push_back(rounded<T>(factor));
  to.w = rounded<T>(from.w);
  to.multiply_adds = from.multiply_adds;
  return to;
}

template <>
Plan<double> rounded(const Plan<double>& from) {
  return from;
}

}  // namespace

template <class T>
Plan<T> make_plan(const PlanKey& key) {
  if (key.accumulators <= 0) throw std::invalid_argument("accumulators must be positive");
  return rounded<T>(cheapest_form(key));
}

template <class T>
int64_t Plan<T>::group_rows() const {
  int64_t most = h.empty() ? 1 : 0;
  if (!h.empty())
    for (const Chunk& chunk : h[0].chunks) most = std::max(most, chunk.outputs);
  return most;
}

template <class T>
std::string Plan<T>::describe() const {
  constexpr const char* kNames[] = {"dense", "separable", "rank", "spectrum"};
  std::ostringstream text;
  text << kNames[static_cast<int>(structure)];
  if (swapped) text << ", axes swapped";
  if (is_dense()) {
    text << ", dense part of " << w.in() << " slots a row, folded ";
    if (!h.empty()) text << h[0].folds << " x ";
    text << w.folds << (w.folds == 1 ? " time" : " times");
  }
  if (has_addend()) text << ", " << h_taps.count << " x " << w_taps.count << " taps";
  text << ", " << multiply_adds << " multiply-adds per vocabulary column";
  return text.str();
}

namespace {

struct KeyHash {
  size_t operator()(const PlanKey& key) const {
    uint64_t hash = 1469598103934665603ull;
    const auto add = [&hash](auto value) { hash = (hash ^ static_cast<uint64_t>(value)) * 1099511628211ull; };
    std::apply([&](const auto&... values) { (add(values), ...); }, key.step.tie());
    add(key.accumulators);
    return static_cast<size_t>(hash);
  }
};

}  // namespace

template <class T>
std::shared_ptr<const Plan<T>> cached_plan(const PlanKey& key) {
  using Plans = std::unordered_map<PlanKey, std::shared_ptr<const Plan<T>>, KeyHash>;
  // A sampler repeats its steps: a thread finds the plans of those that it knows without a lock. The bounds are for a
  // process that meets ever new sizes.
  static thread_local Plans known;
  if (const auto found = known.find(key); found != known.end()) return found->second;
  static std::mutex mutex;
  static auto& plans = *new Plans();
  std::unique_lock<std::mutex> lock(mutex);
  auto found = plans.find(key);
  if (found == plans.end()) {
    lock.unlock();
    auto plan = std::make_shared<const Plan<T>>(make_plan<T>(key));
    lock.lock();
    if (plans.size() >= 1024) plans.clear();
    found = plans.emplace(key, std::move(plan)).first;
  }
  if (known.size() >= 128) known.clear();
  return known.emplace(key, found->second).first->second;
}

template struct Plan<float>;
template struct Plan<double>;
template Plan<float> make_plan<float>(const PlanKey&);
template Plan<double> make_plan<double>(const PlanKey&);
template std::shared_ptr<const Plan<float>> cached_plan<float>(const PlanKey&);
template std::shared_ptr<const Plan<double>> cached_plan<double>(const PlanKey&);

}  // namespace ssg::cpu
