#include "plan.h"

#include <algorithm>
#include <mutex>
#include <shared_mutex>
#include <sstream>
#include <stdexcept>
#include <unordered_map>

namespace ssg {

PairRow pair_row(const Matrix& factor, const Axis& axis, int64_t pair) {
  PairRow row{std::vector<double>(axis.in_even()), std::vector<double>(axis.in_odd())};
  for (int64_t i = 0; i < axis.in_even(); ++i) {
    const int64_t mirror = axis.in - 1 - i;
    if (!axis.symmetric || i == mirror) {
      row.even[i] = factor(pair, i);
    } else {
      row.even[i] = 0.5 * (factor(pair, i) + factor(pair, mirror));
      row.odd[i] = 0.5 * (factor(pair, i) - factor(pair, mirror));
    }
  }
  // The middle output is its own mirror: its odd part is rounding noise of a symmetric factor.
  if (axis.symmetric && axis.mirror(pair) == pair) std::fill(row.odd.begin(), row.odd.end(), 0.0);
  return row;
}

Axis make_axis(const std::vector<Term>& terms, bool along_h) {
  Axis axis;
  const Matrix& first = along_h ? terms[0].h : terms[0].w;
  axis.in = first.cols;
  axis.out = first.rows;
  axis.symmetric = std::all_of(terms.begin(), terms.end(),
                               [along_h](const Term& term) { return is_symmetric(along_h ? term.h : term.w); });
  return axis;
}

namespace {

int64_t nonzeros(const std::vector<double>& values) {
  return static_cast<int64_t>(values.size()) - std::count(values.begin(), values.end(), 0.0);
}

struct Band {
  int64_t even = 0;
  int64_t odd = 0;
};

Band band_of(const Matrix& factor, const Axis& axis) {
  Band band;
  for (int64_t pair = 0; pair < axis.pairs(); ++pair) {
    const PairRow row = pair_row(factor, axis, pair);
    band.even = std::max(band.even, nonzeros(row.even));
    band.odd = std::max(band.odd, nonzeros(row.odd));
  }
  return band;
}

// A tap reads its own operand, where a dense row shares it with the other rows of its chunk: worth it below half.
bool is_banded(const Matrix& factor, const Axis& axis) {
  const Band band = band_of(factor, axis);
  return 2 * (band.even + band.odd) <= axis.in || axis.in == 1;
}

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
  for (int64_t t = 0; t < plan.terms; ++t)
    (is_banded(terms[t].h, plan.h) ? plan.banded_terms : plan.dense_terms).push_back(t);

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
      plan.multiply_adds += chunk.rows * plan.h.in * plan.w.in;
    }
    plan.block_chunks.push_back(std::move(chunks));
  }
  for (int64_t t : plan.banded_terms) {
    const Band band = band_of(terms[t].h, plan.h);
    Taps<T> taps;
    taps.even = band.even;
    taps.odd = band.odd;
    for (int64_t pair = 0; pair < plan.h.pairs(); ++pair) {
      const PairRow row = pair_row(terms[t].h, plan.h, pair);
      append_taps(taps, row.even, taps.even, 0);
      append_taps(taps, row.odd, taps.odd, plan.h.in_even());
    }
    plan.multiply_adds += plan.h.pairs() * taps.count() * plan.w.in;
    plan.h_taps.push_back(std::move(taps));
  }
}

template <class T>
void pack_w(Plan<T>& plan, const std::vector<Term>& terms) {
  std::vector<int64_t> dense;
  std::vector<int64_t> banded;
  for (int64_t t = 0; t < plan.terms; ++t) (is_banded(terms[t].w, plan.w) ? banded : dense).push_back(t);

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
    const Band band = band_of(terms[t].w, plan.w);
    plan.w_taps.even += band.even;
    plan.w_taps.odd += band.odd;
  }
  for (int64_t pair = 0; pair < plan.w.pairs(); ++pair) {
    for (int64_t t : banded)
      append_taps(plan.w_taps, pair_row(terms[t].w, plan.w, pair).even, band_of(terms[t].w, plan.w).even,
                  plan.slot_even[t]);
    for (int64_t t : banded)
      append_taps(plan.w_taps, pair_row(terms[t].w, plan.w, pair).odd, band_of(terms[t].w, plan.w).odd,
                  plan.slot_odd[t]);
  }
  plan.multiply_adds += plan.h.out * plan.w.pairs() * (plan.dense_even + plan.dense_odd + plan.w_taps.count());
}

template <class T>
Plan<T> pack(const StepKey& key, Form form, const std::vector<Term>& terms) {
  Plan<T> plan;
  plan.key = key;
  plan.form = form;
  plan.terms = static_cast<int64_t>(terms.size());
  plan.h = make_axis(terms, true);
  plan.w = make_axis(terms, false);
  pack_w(plan, terms);
  pack_h(plan, terms);
  return plan;
}

void require(bool condition, const char* what) {
  if (!condition) throw std::invalid_argument(what);
}

}  // namespace

template <class T>
Plan<T> make_plan(const StepKey& key) {
  require(key.prev_size.h > 0 && key.prev_size.w > 0, "prev_size must be positive");
  require(key.size.h >= key.prev_size.h && key.size.w >= key.prev_size.w, "prev_size must not exceed size");
  require(key.max_rows > 0, "max_rows must be positive");
  const std::vector<Term> terms =
      prior_terms(key.size, key.prev_size, key.prior, key.interpolation, key.rescale, key.transposed);
  Plan<T> separable = pack<T>(key, Form::separable, terms);

  // The dense form is the separable one on a grid of one row. It is worth building only where it can win: the separable
  // form passes its slots through memory, which costs about a multiply-add each.
  const int64_t dense_cost =
      key.size.tokens() * key.prev_size.tokens() / (separable.h.symmetric && separable.w.symmetric ? 2 : 1);
  const int64_t separable_cost = separable.multiply_adds + separable.h.out * separable.slots;
  if (dense_cost > separable_cost || separable.terms == 1) return separable;
  const std::vector<Term> dense = {{identity(1), dense_operator(terms)}};
  return pack<T>(key, Form::dense, dense);
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
  size_t operator()(const StepKey& key) const {
    uint64_t hash = 1469598103934665603ull;
    for (int64_t value : {key.size.h, key.size.w, key.prev_size.h, key.prev_size.w, static_cast<int64_t>(key.prior),
                          static_cast<int64_t>(key.interpolation), static_cast<int64_t>(key.rescale),
                          static_cast<int64_t>(key.transposed), key.max_rows})
      hash = (hash ^ static_cast<uint64_t>(value)) * 1099511628211ull;
    return static_cast<size_t>(hash);
  }
};

}  // namespace

template <class T>
std::shared_ptr<const Plan<T>> cached_plan(const StepKey& key) {
  // The last plan of this thread answers a sampler's repeated calls without a lock.
  static thread_local std::shared_ptr<const Plan<T>> last;
  if (last && last->key == key) return last;
  static std::shared_mutex mutex;
  static auto& plans = *new std::unordered_map<StepKey, std::shared_ptr<const Plan<T>>, KeyHash>();
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
template Plan<float> make_plan<float>(const StepKey&);
template Plan<double> make_plan<double>(const StepKey&);
template std::shared_ptr<const Plan<float>> cached_plan<float>(const StepKey&);
template std::shared_ptr<const Plan<double>> cached_plan<double>(const StepKey&);

}  // namespace ssg
