// SPDX-License-Identifier: Apache-2.0
// Damaged adapter_model.safetensors: cut, with bits turned, with a header that
// lies.
#include "support/hostile_folder.h"
#include "support/safetensors_bytes.h"

namespace peft_test {
namespace {

class HostileWeights : public HostileFolder {
 protected:
  void SetUp() override {
    HostileFolder::SetUp();
    peft::LoraConfig config;
    config.r = 3;
    config.lora_alpha = 5;
    config.target_modules = {"embedding", "up", "down"};
    config.modules_to_save = {"head"};
    save(config);
    std::uint64_t length = 0;
    for (std::size_t i = 8; i-- > 0;) {
      length = length << 8 | static_cast<unsigned char>(weights_[i]);
    }
    header_ = weights_.substr(8, length);
    data_ = weights_.substr(8 + length);
  }

  bool loads_with_header(const std::string& header) {
    return loads_with_weights(
        length_of(header.size()) + header + data_, header.substr(0, 300));
  }

  std::string header_;
  std::string data_;
};

TEST_F(HostileWeights, CutAnywhere) {
  for (std::size_t size = 0; size < weights_.size(); ++size) {
    EXPECT_FALSE(loads_with_weights(
        weights_.substr(0, size), "cut to " + std::to_string(size)));
  }
  EXPECT_FALSE(loads_with_weights(weights_ + "x", "one byte more"));
}

TEST_F(HostileWeights, WithBitsTurned) {
  for (int i = 0; i < 600; ++i) {
    const bool in_header = i % 3 > 0;
    const std::string start = weights_.substr(0, 8 + header_.size());
    loads_with_weights(
        in_header ? damaged(start) + data_ : start + damaged(data_),
        "damage " + std::to_string(i));
  }
}

TEST_F(HostileWeights, WithAnotherHeadersLength) {
  const std::uint64_t size = header_.size();
  for (const std::uint64_t length :
       {std::uint64_t{0},
        std::uint64_t{1},
        size - 1,
        size + 1,
        size + data_.size(),
        size + data_.size() + 1,
        std::uint64_t{100'000'001},
        std::uint64_t{1} << 31,
        std::uint64_t{1} << 32,
        std::uint64_t{1} << 63,
        ~std::uint64_t{0} - 7,
        ~std::uint64_t{0}}) {
    EXPECT_FALSE(loads_with_weights(
        length_of(length) + header_ + data_,
        "length " + std::to_string(length)));
  }
}

// Each value of the header in turn.
TEST_F(HostileWeights, WithAnythingInThePlaceOfAValue) {
  const OrderedJson header = OrderedJson::parse(header_);
  for (const Pointer& place : places_of(header)) {
    for (const char* value :
         {"null",
          "true",
          "-1",
          "0",
          "1",
          "7",
          "2.5",
          "1e3",
          "1e999",
          "NaN",
          "4294967296",
          "9223372036854775807",
          "18446744073709551615",
          "18446744073709551616",
          "\"\"",
          "\"F32\"",
          "\"I64\"",
          "\"F8_E4M3\"",
          "\"\\u0000\"",
          "[]",
          "[0, 0]",
          "{}"}) {
      loads_with_header(with(header, place, value));
    }
  }
}

TEST_F(HostileWeights, WithKeysTwiceMissingOrNested) {
  const OrderedJson header = OrderedJson::parse(header_);
  for (const auto& [name, fields] : header.items()) {
    const std::string entry = OrderedJson(name).dump() + ":" + fields.dump();
    EXPECT_FALSE(loads_with_header("{" + entry + "," + header_.substr(1)));
    OrderedJson less = header;
    less.erase(name);
    loads_with_header(less.dump());
    for (const auto& [field, value] : fields.items()) {
      OrderedJson changed = header;
      changed[name].erase(field);
      loads_with_header(changed.dump());
    }
    EXPECT_FALSE(
        loads_with_header(with(header, Pointer() / name, endless_list())));
  }
}

// All tensors in the same bytes, and in each other's.
TEST_F(HostileWeights, WithTensorsInOneAnothersPlace) {
  OrderedJson header = OrderedJson::parse(header_);
  header.erase("__metadata__");
  for (const auto& [name, fields] : header.items()) {
    for (const auto& [other, others] : header.items()) {
      OrderedJson changed = header;
      changed[name]["data_offsets"] = others["data_offsets"];
      EXPECT_EQ(
          loads_with_header(changed.dump()),
          others["data_offsets"] == fields["data_offsets"]);
      changed[other]["data_offsets"] = fields["data_offsets"];
      loads_with_header(changed.dump());
    }
  }
}

}  // namespace
}  // namespace peft_test
