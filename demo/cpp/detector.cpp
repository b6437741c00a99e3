// Runs `hrnet-d2 export --format torchscript` from C++.
//
//     detector EXPORTED/detector.pt TORCHVISION PIXELS HEIGHT WIDTH [SCORE_THRESH]
//
// TORCHVISION is a library that registers torchvision's operators: libtorchvision of a build of
// one's own; or torchvision/_C.so (in late versions _C_stable.so) of the Python package, with
// libpython in LD_PRELOAD and torch's libraries in LD_LIBRARY_PATH. PIXELS holds height x width x 3
// bytes, in the order of channels that settings.json says, of the image at the network's size (see
// `prepare` in detector.py). Prints a line for each detection: class, score and box.

// Build, with TORCH the folder of the Python package or of libtorch:
//
//     g++ -std=c++20 detector.cpp -o detector -I$TORCH/include -L$TORCH/lib \
//         -I$TORCH/include/torch/csrc/api/include -Wl,-rpath,$TORCH/lib -Wl,--no-as-needed \
//         -ltorch -ltorch_cpu -lc10 -ldl
//
// and -D_GLIBCXX_USE_CXX11_ABI=0 if torch.compiled_with_cxx11_abi() is False, as before 2.6.

#include <dlfcn.h>
#include <torch/script.h>

#include <fstream>
#include <iostream>
#include <iterator>
#include <vector>

int main(int argc, char** argv) {
  if (argc < 6) {
    std::cerr << "usage: detector MODEL TORCHVISION PIXELS HEIGHT WIDTH [SCORE_THRESH]\n";
    return 2;
  }
  if (!dlopen(argv[2], RTLD_NOW | RTLD_GLOBAL)) {
    std::cerr << dlerror() << "\n";
    return 1;
  }
  torch::jit::script::Module model = torch::jit::load(argv[1]);
  const int64_t height = std::stoll(argv[4]), width = std::stoll(argv[5]);
  const float threshold = argc > 6 ? std::stof(argv[6]) : 0.05f;

  std::ifstream file(argv[3], std::ios::binary);
  std::vector<uint8_t> bytes((std::istreambuf_iterator<char>(file)), {});
  if (static_cast<int64_t>(bytes.size()) != height * width * 3) {
    std::cerr << argv[3] << " has " << bytes.size() << " bytes\n";
    return 1;
  }
  auto pixels = torch::from_blob(bytes.data(), {height, width, 3}, torch::kUInt8);
  // Multiples of 32, at least 64; the padding is at the right and the bottom.
  auto padded = [](int64_t side) { return std::max<int64_t>((side + 31) / 32 * 32, 64); };
  auto images = torch::zeros({1, 3, padded(height), padded(width)}, torch::kUInt8);
  images[0].narrow(1, 0, height).narrow(2, 0, width).copy_(pixels.permute({2, 0, 1}));

  torch::InferenceMode guard;
  auto outputs = model
                     .forward({images, torch::tensor({height, width}, torch::kInt64).unsqueeze(0),
                               torch::tensor(threshold)})
                     .toTuple()
                     ->elements();
  auto boxes = outputs[0].toTensor(), scores = outputs[1].toTensor();
  auto classes = outputs[2].toTensor();
  for (int64_t i = 0; i < scores.size(0); ++i) {
    std::cout << classes[i].item<int64_t>() << " " << scores[i].item<float>();
    for (int64_t j = 0; j < 4; ++j) std::cout << " " << boxes[i][j].item<float>();
    std::cout << "\n";
  }
}
