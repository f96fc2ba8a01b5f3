// SPDX-License-Identifier: Apache-2.0
// Receives the JSON of a safetensors header piece by piece (nlohmann's SAX
// interface) without building a tree of it: duplicate keys are seen, and deep
// nesting costs a counter. Only safetensors_json.cpp needs it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <unordered_set>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/text.h"
#include "files/safetensors_json.h"

namespace peft::detail {

class HeaderReader {
 public:
  using Json = nlohmann::json;

  HeaderReader(DeclaredHeader& header, Mistakes& mistakes)
      : header_(header), mistakes_(mistakes) {}

  bool null() { return scalar("null"); }
  bool boolean(bool value) { return scalar(value ? "true" : "false"); }
  bool binary(Json::binary_t&) { return scalar("binary data"); }
  bool number_integer(int64_t value) {
    return scalar(concat("the negative number ", value));
  }
  bool number_float(double, const std::string& text) {
    return scalar(concat(text, ", not a whole number below 2^64"));
  }
  bool number_unsigned(uint64_t value);
  bool string(std::string& value);
  bool key(std::string& name);
  bool start_object(size_t);
  bool end_object();
  bool start_array(size_t);
  bool end_array();
  bool parse_error(size_t, const std::string&, const Json::exception& error);

 private:
  enum class Place { outside, header, metadata, tensor, list };

  bool scalar(const std::string& found);
  bool container(const std::string& found);
  bool unexpected(const std::string& found);
  bool mistake(const std::string& text);
  bool tensor_key(const std::string& name);
  bool finish_tensor();
  std::string place_name() const;
  std::string expected() const;

  DeclaredHeader& header_;
  Mistakes& mistakes_;
  Place place_ = Place::outside;
  size_t skipped_depth_ = 0;  // inside a value that nothing can be read from
  std::string key_;           // of the header or the metadata
  std::string field_;         // of the tensor
  bool known_field_ = false;
  bool broken_field_ = false;  // one mistake per list is enough
  bool broken_tensor_ = false;
  std::vector<std::string> fields_;
  std::unordered_set<std::string> names_;
  DeclaredTensor tensor_;
  size_t mistake_count_ = 0;
};

}  // namespace peft::detail
