// shared library, tensors ==> results: runs a TVM artifact where there is no Python, and compares its bits.
//
//   run LIBRARY TENSORS [RESULTS]
//
// LIBRARY is the artifact's model-*.so; TENSORS is a safetensors file of inputs, named input.0, input.1, ... (what follows
// after a second point is for people), and of expected outputs, if any, named output.0, ...: an artifact's
// conformance.safetensors is one. RESULTS, where given, is written as such a file. Weights that the library does not hold are
// read from the artifact's weights.safetensors, which has to lie beside it. The variable TVM_NUM_THREADS says how many threads run
// each kernel. Exit code 0: it ran, and every expected output has the same bytes; 1: one differs; 2: one line says what could not
// be read or run.

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
    {"U16", {kDLUInt, 16, 1}}, {"U32", {kDLUInt, 32, 1}}, {"U64", {kDLUInt, 64, 1}}, {"F16", {kDLFloat, 16, 1}},
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

std::map<std::string, ffi::Tensor> ReadFile(const std::string& path, bool comments) {
  std::ifstream file(path, std::ios::binary);
  std::string content((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (!file || content.size() < 8) throw std::runtime_error("cannot be read as a safetensors file");
  uint64_t length = 0;
  for (int byte = 7; byte >= 0; --byte) length = length << 8 | static_cast<unsigned char>(content[byte]);
  if (length > content.size() - 8) throw std::runtime_error("its header is cut off");
  std::string header = content.substr(8, length), data = content.substr(8 + length);
  std::map<std::string, ffi::Tensor> tensors;
  for (const auto& [name, entry] : Header(header).Read()) {
    std::string plain = comments ? name.substr(0, name.find('.', name.find('.') + 1)) : name;
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

// One array of weights.safetensors, whose form, values and mask fxpress_backends/apart.py describes.
ffi::Tensor Expanded(const ffi::Tensor& form, const ffi::Tensor& values, const ffi::Tensor* mask) {
  const int64_t fields = form.shape().size() == 1 ? form.shape()[0] : 0;
  const int64_t* field = reinterpret_cast<const int64_t*>(Bytes(form));
  if (TypeOf(form) != "I64" || fields < 6 || field[0] < 0 || field[0] > 2) throw std::runtime_error("no form");
  const int64_t bits = field[1], unit = field[2], width = field[3], least = field[4], fill = field[5];
  const bool sizes = (bits == 8 || bits == 16 || bits == 32 || bits == 64) && (unit == 8 || unit == 16 || unit == bits) && unit <= bits;
  if (!sizes || width < 0 || width > 7 || (width != 0 && unit > 16)) throw std::runtime_error("no form");
  const int64_t room = static_cast<int64_t>(ffi::GetDataSize(*values.GetDLTensorPtr()));
  const int64_t most = (mask == nullptr ? room : static_cast<int64_t>(ffi::GetDataSize(*mask->GetDLTensorPtr()))) * 8;
  int64_t count = 1;  // elements; none take less than a bit
  for (int64_t place = 6; place < fields; ++place) {
    if (field[place] < 0 || (field[place] > 0 && count > most / field[place])) throw std::runtime_error("a shape too large");
    count *= field[place];
  }
  const uint8_t* kept = mask == nullptr ? nullptr : reinterpret_cast<const uint8_t*>(Bytes(*mask));
  auto keeps = [&](int64_t element) { return kept == nullptr || (kept[element / 8] >> (7 - element % 8) & 1) != 0; };
  if (mask != nullptr && (TypeOf(*mask) != "U8" || most / 8 != (count + 7) / 8)) throw std::runtime_error("a mask of another length");
  int64_t stored = 0;
  for (int64_t element = 0; element < count; ++element) stored += keeps(element);
  const int64_t units = stored * (bits / unit), octets = width == 0 ? stored * (bits / 8) : (units * width + 7) / 8;
  if (room != octets) throw std::runtime_error("values of another number");
  const DLDataType type = {static_cast<uint8_t>(field[0]), static_cast<uint8_t>(bits), 1};
  const DLDevice here = {kDLCPU, 0};
  const ffi::Shape shape(std::vector<int64_t>(field + 6, field + fields));
  ffi::Tensor result = ffi::Tensor::FromNDAlloc(Memory(), shape, type, here);
  const uint8_t* stream = reinterpret_cast<const uint8_t*>(Bytes(values));
  char* to = static_cast<char*>(result.data_ptr());
  int64_t next = 0;  // the stored unit, or element, that is read next
  for (int64_t element = 0; element < count; ++element, to += bits / 8) {
    if (!keeps(element)) {
      std::memcpy(to, &fill, bits / 8);  // the lower bytes come first
    } else if (width == 0) {
      std::memcpy(to, stream + next++ * (bits / 8), bits / 8);
    } else {
      for (int64_t part = 0; part < bits / unit; ++part, ++next) {
        const int64_t first = next * width, byte = first / 8;
        const uint32_t pair = stream[byte] | (byte + 1 < octets ? stream[byte + 1] << 8 : 0);
        const int64_t value = least + (pair >> (first % 8) & ((1u << width) - 1));
        std::memcpy(to + part * (unit / 8), &value, unit / 8);
      }
    }
  }
  return result;
}

// In the order of their names, which is that of main's arguments.
std::vector<ffi::Tensor> Weights(const std::string& path) {
  const std::string prefix = "form:";
  std::vector<ffi::Tensor> weights;
  auto stored = ReadFile(path, false);
  for (const auto& [key, form] : stored) {
    if (key.compare(0, prefix.size(), prefix) != 0) continue;
    const std::string name = key.substr(prefix.size());
    auto values = stored.find("values:" + name), mask = stored.find("mask:" + name);
    if (values == stored.end()) throw std::runtime_error(name + ": no values");
    weights.push_back(Expanded(form, values->second, mask == stored.end() ? nullptr : &mask->second));
  }
  return weights;
}

ffi::Function Named(const ffi::Module& module, const std::string& name) {
  ffi::Optional<ffi::Function> found = module->GetFunction(name, true);
  if (!found.has_value()) throw std::runtime_error("it has no function " + name);
  return found.value();
}

// `at` becomes the file that is being read.
ffi::Array<ffi::Tensor> Execute(const std::string& library, const std::map<std::string, ffi::Tensor>& tensors, std::string* at) {
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
  std::vector<ffi::Tensor> weights;
  const int64_t wanted = Named(machine, "get_function_arity")("main").cast<int64_t>();
  const std::string beside = library.substr(0, library.find_last_of('/') + 1) + "weights.safetensors";
  if (wanted > static_cast<int64_t>(inputs.size()) && std::ifstream(beside).good()) {
    *at = beside;
    weights = Weights(beside);
    *at = library;
  }
  if (wanted != static_cast<int64_t>(inputs.size() + weights.size())) {
    throw std::runtime_error("it takes " + std::to_string(wanted) + " tensors, there are " + std::to_string(inputs.size()) +
                             " inputs and " + std::to_string(weights.size()) + " weights beside it");
  }
  inputs.insert(inputs.end(), weights.begin(), weights.end());
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
    auto tensors = ReadFile(at, true);
    at = argv[1];
    auto results = Execute(argv[1], tensors, &at);
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
