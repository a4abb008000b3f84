// shared library, tensors ==> results: runs a TVM artifact where there is no Python, and compares its bits.
//
//   run LIBRARY TENSORS [RESULTS]
//
// LIBRARY is the artifact's model-*.so; TENSORS is a safetensors file of inputs, named input.0, input.1, ... (what follows
// after a second point is for people), and of expected outputs, if any, named output.0, ...: an artifact's
// conformance.safetensors is one. RESULTS, where given, is written as such a file. The variable TVM_NUM_THREADS says how many
// threads run each kernel. Exit code 0: it ran, and every expected output has the same bytes; 1: one differs; 2: one line says
// what could not be read or run.

#include <tvm/ffi/container/array.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/error.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <algorithm>
#include <cctype>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

namespace ffi = tvm::ffi;

namespace {

const size_t kAlignment = 64;  // of what TVM's kernels read and write

const std::map<std::string, DLDataType> kTypes = {
    {"BOOL", {kDLBool, 8, 1}}, {"I8", {kDLInt, 8, 1}},   {"U8", {kDLUInt, 8, 1}},     {"I16", {kDLInt, 16, 1}},
    {"I32", {kDLInt, 32, 1}},  {"I64", {kDLInt, 64, 1}}, {"F32", {kDLFloat, 32, 1}}, {"F64", {kDLFloat, 64, 1}},
};

struct Memory {
  void AllocData(DLTensor* tensor) {
    size_t size = std::max<size_t>(ffi::GetDataSize(*tensor), 1);
    tensor->data = std::aligned_alloc(kAlignment, (size + kAlignment - 1) / kAlignment * kAlignment);
    if (tensor->data == nullptr) throw std::bad_alloc();
  }
  void FreeData(DLTensor* tensor) { std::free(tensor->data); }
};

struct Entry {
  std::string dtype;
  std::vector<int64_t> shape, offsets;
};

// A safetensors header: an object of objects, each of one string and two lists of numbers; __metadata__ is passed over.
class Header {
 public:
  explicit Header(const std::string& text) : text_(text) {}

  std::map<std::string, Entry> Read() {
    std::map<std::string, Entry> entries;
    Members([&](const std::string& name) {
      Entry entry;
      Members([&](const std::string& key) {
        if (name == "__metadata__") {
          String();
        } else if (key == "dtype") {
          entry.dtype = String();
        } else if (key == "shape") {
          entry.shape = Numbers();
        } else if (key == "data_offsets") {
          entry.offsets = Numbers();
        } else {
          throw std::runtime_error("unknown key " + key);
        }
      });
      if (name != "__metadata__") entries[name] = entry;
    });
    return entries;
  }

 private:
  char Next() {
    while (at_ < text_.size() && std::isspace(static_cast<unsigned char>(text_[at_]))) ++at_;
    return at_ < text_.size() ? text_[at_] : '\0';
  }

  bool Take(char wanted) {
    if (Next() != wanted) return false;
    ++at_;
    return true;
  }

  void Expect(char wanted) {
    if (!Take(wanted)) throw std::runtime_error(std::string("no ") + wanted + " at byte " + std::to_string(at_) + " of the header");
  }

  template <typename Read>
  void Members(Read read) {
    Expect('{');
    if (Take('}')) return;
    do {
      std::string name = String();
      Expect(':');
      read(name);
    } while (Take(','));
    Expect('}');
  }

  std::string String() {
    std::string value;
    Expect('"');
    while (at_ < text_.size() && text_[at_] != '"') {
      if (text_[at_] == '\\') throw std::runtime_error("a name with a backslash");
      value += text_[at_++];
    }
    Expect('"');
    return value;
  }

  std::vector<int64_t> Numbers() {
    std::vector<int64_t> values;
    Expect('[');
    if (Take(']')) return values;
    do {
      int64_t value = 0;
      if (!std::isdigit(static_cast<unsigned char>(Next()))) Expect('0');
      while (at_ < text_.size() && std::isdigit(static_cast<unsigned char>(text_[at_]))) {
        if (value > (INT64_MAX >> 4)) throw std::runtime_error("a number too large");
        value = value * 10 + (text_[at_++] - '0');
      }
      values.push_back(value);
    } while (Take(','));
    Expect(']');
    return values;
  }

  const std::string& text_;
  size_t at_ = 0;
};

ffi::Tensor Read(const std::string& name, const Entry& entry, const std::string& data) {
  auto type = kTypes.find(entry.dtype);
  if (type == kTypes.end()) throw std::runtime_error(name + ": type " + entry.dtype + " is not known");
  size_t size = type->second.bits / 8;
  for (int64_t extent : entry.shape) {
    if (extent > 0 && size > data.size() / extent) throw std::runtime_error(name + ": larger than the file");
    size *= extent;
  }
  bool fits = entry.offsets.size() == 2 && entry.offsets[0] <= entry.offsets[1] && static_cast<size_t>(entry.offsets[1]) <= data.size();
  if (!fits || static_cast<size_t>(entry.offsets[1] - entry.offsets[0]) != size) throw std::runtime_error(name + ": wrong offsets");
  ffi::Tensor tensor = ffi::Tensor::FromNDAlloc(Memory(), ffi::Shape(entry.shape), type->second, DLDevice{kDLCPU, 0});
  std::memcpy(tensor.data_ptr(), data.data() + entry.offsets[0], size);
  return tensor;
}

std::map<std::string, ffi::Tensor> ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string content((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (!file || content.size() < 8) throw std::runtime_error("cannot be read as a safetensors file");
  uint64_t length = 0;
  for (int byte = 7; byte >= 0; --byte) length = length << 8 | static_cast<unsigned char>(content[byte]);
  if (length > content.size() - 8) throw std::runtime_error("its header is cut off");
  std::string header = content.substr(8, length), data = content.substr(8 + length);
  std::map<std::string, ffi::Tensor> tensors;
  for (const auto& [name, entry] : Header(header).Read()) {
    std::string plain = name.substr(0, name.find('.', name.find('.') + 1));
    if (!tensors.emplace(plain, Read(name, entry, data)).second) throw std::runtime_error("more than one " + plain);
  }
  return tensors;
}

const char* Bytes(const ffi::Tensor& tensor) {
  return static_cast<const char*>(tensor.GetDLTensorPtr()->data) + tensor.GetDLTensorPtr()->byte_offset;
}

std::string TypeOf(const ffi::Tensor& tensor) {
  for (const auto& [name, type] : kTypes) {
    if (std::memcmp(&type, &tensor.GetDLTensorPtr()->dtype, sizeof(type)) == 0) return name;
  }
  return "an unknown type";
}

std::string ShapeOf(const ffi::Tensor& tensor) {
  std::string text;
  for (int64_t extent : tensor.shape()) text += (text.empty() ? "" : ",") + std::to_string(extent);
  return "[" + text + "]";
}

void WriteFile(const std::string& path, const ffi::Array<ffi::Tensor>& results) {
  std::string header = "{", data;
  for (size_t number = 0; number < results.size(); ++number) {
    size_t first = data.size();
    data.append(Bytes(results[number]), ffi::GetDataSize(*results[number].GetDLTensorPtr()));
    header += (number ? ",\"output." : "\"output.") + std::to_string(number) + "\":{\"dtype\":\"" + TypeOf(results[number]) +
              "\",\"shape\":" + ShapeOf(results[number]) + ",\"data_offsets\":[" + std::to_string(first) + "," +
              std::to_string(data.size()) + "]}";
  }
  header += "}";
  std::string length;
  for (int byte = 0; byte < 8; ++byte) length += static_cast<char>(static_cast<uint64_t>(header.size()) >> (8 * byte) & 255);
  std::ofstream file(path, std::ios::binary);
  file << length << header << data << std::flush;
  if (!file) throw std::runtime_error("cannot be written");
}

ffi::Function Named(const ffi::Module& module, const std::string& name) {
  ffi::Optional<ffi::Function> found = module->GetFunction(name, true);
  if (!found.has_value()) throw std::runtime_error("it has no function " + name);
  return found.value();
}

ffi::Array<ffi::Tensor> Execute(const std::string& library, const std::map<std::string, ffi::Tensor>& tensors) {
  const int kPooled = 2;  // the allocator that keeps what it was given back
  ffi::Module loaded = ffi::Module::LoadFromFile(library);
  auto machine = Named(loaded, "vm_load_executable")().cast<ffi::Module>();
  Named(machine, "vm_initialization")(static_cast<int>(kDLCPU), 0, kPooled);
  std::vector<ffi::AnyView> inputs;
  for (;;) {
    auto found = tensors.find("input." + std::to_string(inputs.size()));
    if (found == tensors.end()) break;
    inputs.emplace_back(found->second);
  }
  ffi::Any results;
  Named(machine, "main").CallPacked(inputs.data(), static_cast<int32_t>(inputs.size()), &results);
  return results.cast<ffi::Array<ffi::Tensor>>();
}

bool Same(const ffi::Tensor& found, const ffi::Tensor& wanted) {
  size_t size = ffi::GetDataSize(*wanted.GetDLTensorPtr());
  return TypeOf(found) == TypeOf(wanted) && ShapeOf(found) == ShapeOf(wanted) &&
         std::memcmp(Bytes(found), Bytes(wanted), size) == 0;
}

}  // namespace

// Linux gives a process AMX's tiles where it asks for them; a CPU without them says no, and runs no library that uses them.
void AskForTiles() {
#if defined(__linux__) && defined(__x86_64__)
  const long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  syscall(SYS_arch_prctl, kRequestPermission, kTileData);
#endif
}

int main(int argc, char** argv) {
  if (argc != 3 && argc != 4) {
    std::cerr << "usage: run LIBRARY TENSORS [RESULTS]" << std::endl;
    return 2;
  }
  AskForTiles();
  std::string at = argv[2];
  try {
    auto tensors = ReadFile(at);
    at = argv[1];
    auto results = Execute(at, tensors);
    if (argc == 4) WriteFile(at = argv[3], results);
    at = argv[2];
    bool held = true;
    size_t expected = 0;
    for (size_t number = 0; number < results.size(); ++number) {
      std::string name = "output." + std::to_string(number), seen = "computed";
      auto wanted = tensors.find(name);
      if (wanted != tensors.end()) {
        ++expected;
        bool same = Same(results[number], wanted->second);
        seen = same ? "same bits" : "DIFFERS";
        held = held && same;
      }
      std::cout << name << " " << TypeOf(results[number]) << ShapeOf(results[number]) << ": " << seen << std::endl;
    }
    for (const auto& [name, tensor] : tensors) expected -= name.compare(0, 7, "output.") == 0;
    if (expected != 0) throw std::runtime_error("more outputs are expected than the library gives");
    return held ? 0 : 1;
  } catch (const ffi::Error& error) {
    std::cerr << at << ": " << error.message() << std::endl;
  } catch (const std::exception& error) {
    std::cerr << at << ": " << error.what() << std::endl;
  }
  return 2;
}
