// Guides and samples without Python: calls the operator itself, and runs the package that export.py wrote.
//
//   guide FOLDER          compares the results of the package with Python's, to the bit
//   guide --prior NAME    calls the operator with a prior
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <cstring>
#include <fstream>
#include <iostream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace {

constexpr int64_t kScales[] = {1, 2, 3, 4, 5, 6, 8, 10, 13, 16};
constexpr int64_t kVocabulary = 4096;

at::Tensor guided_logits(const at::Tensor& logits, const at::Tensor& prev_logits, c10::SymIntArrayRef size,
                         c10::SymIntArrayRef prev_size, double beta, std::string_view prior) {
  using Signature = at::Tensor(const at::Tensor&, const at::Tensor&, c10::SymIntArrayRef, c10::SymIntArrayRef, double,
                               std::string_view, std::string_view, bool);
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("ssg::guided_logits", "float").typed<Signature>();
  return op.call(logits, prev_logits, size, prev_size, beta, prior, "bilinear", false);
}

// The numbers of a file, taken one tensor after the other.
class File {
 public:
  explicit File(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    bytes_.assign(std::istreambuf_iterator<char>(file), {});
  }
  at::Tensor next(at::IntArrayRef shape) {
    const at::Tensor tensor = at::empty(shape, at::kFloat);
    const size_t count = tensor.nbytes();
    if (bytes_.size() - read_ < count) throw std::runtime_error("the file of inputs is too short");
    std::memcpy(tensor.mutable_data_ptr(), bytes_.data() + read_, count);
    read_ += count;
    return tensor;
  }
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
  size_t read_ = 0;
};

int call(std::string_view prior) {
  const at::Tensor logits = at::ones({1, 4, 1}), prev_logits = at::ones({1, 1, 1});
  std::cout << guided_logits(logits, prev_logits, {2, 2}, {1, 1}, 1.0, prior).sum().item<float>() << "\n";
  return 0;
}

int generate(const std::string& folder) {
  File inputs(folder + "/inputs.bin");
  std::vector<at::Tensor> arguments;
  for (int64_t n : kScales) {
    arguments.push_back(inputs.next({2, n * n, kVocabulary}));
    arguments.push_back(inputs.next({1, n * n}));
  }
  torch::inductor::AOTIModelPackageLoader package(folder + "/generation.pt2");
  std::string bytes;
  for (const at::Tensor& result : package.run(arguments)) {
    const at::Tensor contiguous = result.contiguous();
    bytes.append(static_cast<const char*>(contiguous.const_data_ptr()), contiguous.nbytes());
  }
  const bool same = bytes == File(folder + "/expected.bin").bytes();
  std::cout << bytes.size() << " bytes of results, " << (same ? "those of Python" : "which differ from Python's")
            << "\n";
  return same ? 0 : 1;
}

}  // namespace

int main(int count, char** arguments) try {
  if (count == 3 && std::string_view(arguments[1]) == "--prior") return call(arguments[2]);
  if (count == 2) return generate(arguments[1]);
  std::cerr << "guide FOLDER | guide --prior NAME\n";
  return 2;
} catch (const std::exception& error) {
  std::cerr << error.what() << "\n";
  return 1;
}
