#include "plan.h"

#include <algorithm>
#include <mutex>
#include <shared_mutex>
#include <sstream>
#include <stdexcept>
#include <tuple>
#include <unordered_map>
#include <utility>

namespace ssg::cpu {
namespace {

template <class T>
void append_taps(Taps<T>& taps, const std::vector<double>& row, int64_t count, int64_t base) {
  int64_t written = 0;
  for (size_t i = 0; i < row.size(); ++i)
    if (row[i] != 0.0) {
      taps.index.push_back(static_cast<int32_t>(base + static_cast<int64_t>(i)));
      taps.coefficient.push_back(static_cast<T>(row[i]));
      ++written;
    }
  for (; written < count; ++written) {
    taps.index.push_back(static_cast<int32_t>(base));
    taps.coefficient.push_back(T(0));
  }
}

std::vector<Chunk> balanced_chunks(int64_t rows, int64_t max_rows) {
  std::vector<Chunk> chunks;
  const int64_t count = (rows + max_rows - 1) / max_rows;
  for (int64_t c = 0; c < count; ++c) {
    Chunk chunk;
    chunk.begin = c * rows / count;
    chunk.rows = (c + 1) * rows / count - chunk.begin;
    chunks.push_back(chunk);
  }
  return chunks;
}

template <class T>
void pack_h(Plan<T>& plan, const std::vector<Term>& terms) {
  std::vector<Band> bands;
  for (const Term& term : terms) bands.push_back(band_of(term.h, plan.h));
  for (int64_t t = 0; t < plan.terms; ++t)
    (bands[t].is_narrow(plan.h) ? plan.banded_terms : plan.dense_terms).push_back(t);

  const int64_t dense = static_cast<int64_t>(plan.dense_terms.size());
  plan.block_pairs = std::min(plan.h.pairs(), std::max<int64_t>(1, 6 / std::max<int64_t>(dense, 1)));
  plan.blocks = (plan.h.pairs() + plan.block_pairs - 1) / plan.block_pairs;
  for (int64_t block = 0; block < plan.blocks; ++block) {
    const int64_t first = block * plan.block_pairs;
    const int64_t pairs = std::min(plan.block_pairs, plan.h.pairs() - first);
    std::vector<Chunk> chunks = balanced_chunks(pairs * dense, plan.key.max_rows);
    for (Chunk& chunk : chunks) {
      chunk.offset = static_cast<int64_t>(plan.h_coefficients.size());
      std::vector<PairRow> rows;
      for (int64_t r = chunk.begin; r < chunk.begin + chunk.rows; ++r)
        rows.push_back(pair_row(terms[plan.dense_terms[r % dense]].h, plan.h, first + r / dense));
      for (int64_t i = 0; i < plan.h.in_even(); ++i)
        for (const PairRow& row : rows) plan.h_coefficients.push_back(static_cast<T>(row.even[i]));
      for (int64_t i = 0; i < plan.h.in_odd(); ++i)
        for (const PairRow& row : rows) plan.h_coefficients.push_back(static_cast<T>(row.odd[i]));
    }
    plan.block_chunks.push_back(std::move(chunks));
  }
  for (int64_t t : plan.banded_terms) {
    Taps<T> taps;
    taps.even = bands[t].even;
    taps.odd = bands[t].odd;
    for (int64_t pair = 0; pair < plan.h.pairs(); ++pair) {
      const PairRow row = pair_row(terms[t].h, plan.h, pair);
      append_taps(taps, row.even, taps.even, 0);
      append_taps(taps, row.odd, taps.odd, plan.h.in_even());
    }
    plan.h_taps.push_back(std::move(taps));
  }
}

template <class T>
void pack_w(Plan<T>& plan, const std::vector<Term>& terms) {
  std::vector<Band> bands;
  for (const Term& term : terms) bands.push_back(band_of(term.w, plan.w));
  std::vector<int64_t> dense;
  std::vector<int64_t> banded;
  for (int64_t t = 0; t < plan.terms; ++t) (bands[t].is_narrow(plan.w) ? banded : dense).push_back(t);

  const int64_t even = plan.w.in_even();
  const int64_t odd = plan.w.in_odd();
  const int64_t count = static_cast<int64_t>(dense.size());
  plan.dense_even = count * even;
  plan.dense_odd = count * odd;
  plan.slot_even.resize(plan.terms);
  plan.slot_odd.resize(plan.terms);
  for (int64_t d = 0; d < count; ++d) {
    plan.slot_even[dense[d]] = d * even;
    plan.slot_odd[dense[d]] = plan.dense_even + d * odd;
  }
  plan.slots = plan.dense_even + plan.dense_odd;
  for (int64_t t : banded) {
    plan.slot_even[t] = plan.slots;
    plan.slot_odd[t] = plan.slots + even;
    plan.slots += even + odd;
  }

  plan.w_chunks = balanced_chunks(plan.w.pairs(), plan.key.max_rows);
  for (Chunk& chunk : plan.w_chunks) {
    chunk.offset = static_cast<int64_t>(plan.w_coefficients.size());
    for (const bool is_odd : {false, true})
      for (int64_t t : dense)
        for (int64_t j = 0; j < (is_odd ? odd : even); ++j)
          for (int64_t r = chunk.begin; r < chunk.begin + chunk.rows; ++r) {
            const PairRow row = pair_row(terms[t].w, plan.w, r);
            plan.w_coefficients.push_back(static_cast<T>(is_odd ? row.odd[j] : row.even[j]));
          }
  }
  for (int64_t t : banded) {
    plan.w_taps.even += bands[t].even;
    plan.w_taps.odd += bands[t].odd;
  }
  for (int64_t pair = 0; pair < plan.w.pairs(); ++pair) {
    for (int64_t t : banded)
      append_taps(plan.w_taps, pair_row(terms[t].w, plan.w, pair).even, bands[t].even, plan.slot_even[t]);
    for (int64_t t : banded)
      append_taps(plan.w_taps, pair_row(terms[t].w, plan.w, pair).odd, bands[t].odd, plan.slot_odd[t]);
  }
}

}  // namespace

template <class T>
Plan<T> make_plan(const PlanKey& key) {
  if (key.max_rows <= 0) throw std::invalid_argument("max_rows must be positive");
  const Step step = make_step(key.step);
  Plan<T> plan;
  plan.key = key;
  plan.form = step.form;
  plan.terms = static_cast<int64_t>(step.terms.size());
  plan.h = step.h;
  plan.w = step.w;
  plan.multiply_adds = step.multiply_adds();
  pack_w(plan, step.terms);
  pack_h(plan, step.terms);
  return plan;
}

template <class T>
std::string Plan<T>::describe() const {
  std::ostringstream text;
  const auto kind = [](const Axis& axis) { return axis.symmetric ? "even/odd" : "plain"; };
  if (form == Form::dense)
    text << "dense " << kind(w);
  else
    text << "separable " << kind(h) << " x " << kind(w);
  text << ", " << terms << (terms == 1 ? " term" : " terms") << " (" << banded_terms.size() << " banded along h, "
       << w_taps.count() << " taps along w), " << blocks << (blocks == 1 ? " block" : " blocks") << " of "
       << block_pairs << " row pairs, " << multiply_adds << " multiply-adds per vocabulary column";
  return text.str();
}

namespace {

struct KeyHash {
  size_t operator()(const PlanKey& key) const {
    uint64_t hash = 1469598103934665603ull;
    const auto add = [&hash](auto value) { hash = (hash ^ static_cast<uint64_t>(value)) * 1099511628211ull; };
    std::apply([&](const auto&... values) { (add(values), ...); }, key.step.tie());
    add(key.max_rows);
    return static_cast<size_t>(hash);
  }
};

}  // namespace

template <class T>
std::shared_ptr<const Plan<T>> cached_plan(const PlanKey& key) {
  // A sampler repeats its calls: the last plan of this thread then serves without a lock.
  static thread_local std::shared_ptr<const Plan<T>> last;
  if (last && last->key == key) return last;
  static std::shared_mutex mutex;
  static auto& plans = *new std::unordered_map<PlanKey, std::shared_ptr<const Plan<T>>, KeyHash>();
  {
    std::shared_lock<std::shared_mutex> lock(mutex);
    const auto found = plans.find(key);
    if (found != plans.end()) return last = found->second;
  }
  auto plan = std::make_shared<const Plan<T>>(make_plan<T>(key));
  std::unique_lock<std::shared_mutex> lock(mutex);
  if (plans.size() >= 1024) plans.clear();  // a bound for a process that meets ever new sizes
  return last = plans.emplace(key, std::move(plan)).first->second;
}

template struct Plan<float>;
template struct Plan<double>;
template Plan<float> make_plan<float>(const PlanKey&);
template Plan<double> make_plan<double>(const PlanKey&);
template std::shared_ptr<const Plan<float>> cached_plan<float>(const PlanKey&);
template std::shared_ptr<const Plan<double>> cached_plan<double>(const PlanKey&);

}  // namespace ssg::cpu
