#include "tensor_step.h"

#include <algorithm>

namespace ssg::cuda {
namespace {

// The first coarse row of eight that every eight output rows need of a factor; nothing where they need more.
std::vector<int> windows_of(const Matrix& factor) {
  std::vector<int> starts;
  if (factor.cols < 8) return {};
  for (int64_t row = 0; row < factor.rows; row += 8) {
    int64_t begin = factor.cols;
    int64_t end = 0;
    for (int64_t r = row; r < std::min(row + 8, factor.rows); ++r) {
      begin = std::min(begin, factor.runs[r].begin);
      end = std::max(end, factor.runs[r].end);
    }
    if (end - begin > 8) return {};
    starts.push_back(static_cast<int>(std::max<int64_t>(0, std::min(begin, factor.cols - 8))));
  }
  return starts;
}

}  // namespace

std::optional<TensorStep> tensor_step(const Step& step, const Tile& tile) {
  // The dense form has one row; such steps are small.
  if (tile.engine != Engine::mma || step.one_row) return std::nullopt;
  TensorStep made;
  made.sizes = {static_cast<int>(step.h.in),
                static_cast<int>(step.w.in),
                static_cast<int>(step.h.out),
                static_cast<int>(step.w.out),
                static_cast<int>(step.term_count()),
                false,
                false};
  for (const Term& term : step.terms) made.terms.push_back(&term);
  if (tile.in == 0) return made;
  if (step.h.in != tile.in || step.w.in != tile.in || step.h.out != tile.out || step.w.out != tile.out ||
      step.term_count() != 3)
    return std::nullopt;
  if (tile.in <= 16) return made;
  made.sizes.folds = step.w.symmetric;
  const auto banded =
      std::find_if(made.terms.begin(), made.terms.end(), [](const Term* term) { return !windows_of(term->h).empty(); });
  if (!made.sizes.folds || banded == made.terms.end()) return std::nullopt;
  std::rotate(banded, banded + 1, made.terms.end());
  made.starts = windows_of(made.terms.back()->h);
  made.sizes.windows = true;
  return made;
}

}  // namespace ssg::cuda
