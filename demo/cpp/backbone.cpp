// Runs `hrnet-d2 export --format pt2 --compile-backbone` from C++: backbone and neck alone.
//
//     backbone EXPORTED/backbone.pt2 HEIGHT WIDTH
//
// HEIGHT and WIDTH are multiples of 32, from 64 on. Prints the sizes of the levels for a ramp
// from 0 to 1, and the mean of each. Build it as detector.cpp.

#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/torch.h>

#include <iostream>

int main(int argc, char** argv) {
  if (argc != 4) {
    std::cerr << "usage: backbone PACKAGE HEIGHT WIDTH\n";
    return 2;
  }
  const int64_t height = std::stoll(argv[2]), width = std::stoll(argv[3]);
  torch::InferenceMode guard;
  torch::inductor::AOTIModelPackageLoader loader(argv[1]);
  auto images = torch::linspace(0, 1, 3 * height * width).view({1, 3, height, width});
  std::vector<at::Tensor> inputs{images};
  for (const auto& level : loader.run(inputs))
    std::cout << level.sizes() << " " << level.mean().item<float>() << "\n";
}
