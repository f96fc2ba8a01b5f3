// SPDX-License-Identifier: Apache-2.0
#include "files/safetensors_json_reader.h"

#include <algorithm>

namespace peft::detail {

std::string HeaderReader::place_name() const {
  switch (place_) {
    case Place::outside:
      return "its header";
    case Place::header:
      return key_ == "__metadata__" ? key_ : concat("tensor ", quote(key_));
    case Place::metadata:
      return concat("the value of ", quote(key_), " in __metadata__");
    default:
      return concat("'", field_, "' of tensor ", quote(tensor_.name));
  }
}

std::string HeaderReader::expected() const {
  switch (place_) {
    case Place::outside:
    case Place::header:
      return "an object";
    case Place::metadata:
      return "a string";
    default:
      return field_ == "dtype" ? "a string" : "a list of whole numbers";
  }
}

// False stops the parser: a hostile header could hold millions of mistakes.
bool HeaderReader::mistake(const std::string& text) {
  constexpr size_t most = 1000;
  mistakes_.add(text);
  broken_tensor_ = true;
  return ++mistake_count_ < most;
}

bool HeaderReader::unexpected(const std::string& found) {
  const bool in_tensor = place_ == Place::tensor || place_ == Place::list;
  if (in_tensor && (!known_field_ || broken_field_)) {
    return true;  // reported already
  }
  broken_field_ = true;
  return mistake(
      concat(place_name(), " is ", found, ", expected ", expected()));
}

bool HeaderReader::scalar(const std::string& found) {
  if (skipped_depth_ > 0) {
    return true;
  }
  return unexpected(place_ == Place::list ? "a list with " + found : found);
}

bool HeaderReader::container(const std::string& found) {
  if (skipped_depth_++ > 0) {
    return true;
  }
  return unexpected(place_ == Place::list ? "a list with " + found : found);
}

bool HeaderReader::number_unsigned(uint64_t value) {
  if (skipped_depth_ > 0 || place_ != Place::list) {
    return scalar(concat("the number ", value));
  }
  (field_ == "shape" ? tensor_.shape : tensor_.offsets).push_back(value);
  return true;
}

bool HeaderReader::string(std::string& value) {
  if (skipped_depth_ > 0) {
    return true;
  }
  if (place_ == Place::metadata) {
    header_.metadata.emplace(key_, std::move(value));
    return true;
  }
  if (place_ == Place::tensor && field_ == "dtype") {
    tensor_.dtype = std::move(value);
    return true;
  }
  return scalar(concat("the string ", quote(value)));
}

bool HeaderReader::key(std::string& name) {
  if (skipped_depth_ > 0) {
    return true;
  }
  if (place_ == Place::tensor) {
    return tensor_key(name);
  }
  key_ = name;
  if (place_ == Place::header) {
    return names_.insert(name).second ||
        mistake(concat(place_name(), " is there twice"));
  }
  return !header_.metadata.contains(name) ||
      mistake(concat(place_name(), " is there twice"));
}

bool HeaderReader::tensor_key(const std::string& name) {
  field_ = name;
  known_field_ = name == "dtype" || name == "shape" || name == "data_offsets";
  broken_field_ = false;
  if (!known_field_) {
    return mistake(concat(
        "tensor ",
        quote(tensor_.name),
        " has an unknown field ",
        quote(name),
        " (known are dtype, shape, data_offsets)"));
  }
  if (std::find(fields_.begin(), fields_.end(), name) != fields_.end()) {
    return mistake(concat(place_name(), " is there twice"));
  }
  fields_.push_back(name);
  return true;
}

bool HeaderReader::start_object(size_t) {
  if (skipped_depth_ == 0 && place_ == Place::outside) {
    place_ = Place::header;
    return true;
  }
  if (skipped_depth_ == 0 && place_ == Place::header) {
    const bool metadata = key_ == "__metadata__";
    place_ = metadata ? Place::metadata : Place::tensor;
    tensor_ = DeclaredTensor{key_, {}, {}, {}};
    fields_.clear();
    broken_tensor_ = false;
    return true;
  }
  return container("an object");
}

bool HeaderReader::end_object() {
  if (skipped_depth_ > 0) {
    --skipped_depth_;
    return true;
  }
  if (place_ == Place::header) {
    place_ = Place::outside;
    return true;
  }
  const bool tensor = place_ == Place::tensor;
  place_ = Place::header;
  return !tensor || finish_tensor();
}

bool HeaderReader::finish_tensor() {
  bool go_on = true;
  for (const char* field : {"dtype", "shape", "data_offsets"}) {
    if (std::find(fields_.begin(), fields_.end(), field) == fields_.end()) {
      go_on = mistake(
          concat("tensor ", quote(tensor_.name), " has no '", field, "'"));
    }
  }
  if (!broken_tensor_) {
    header_.tensors.push_back(std::move(tensor_));
  }
  return go_on;
}

bool HeaderReader::start_array(size_t) {
  const bool list = place_ == Place::tensor && known_field_ &&
      field_ != "dtype" && skipped_depth_ == 0;
  if (list) {
    place_ = Place::list;
    return true;
  }
  return container("a list");
}

bool HeaderReader::end_array() {
  if (skipped_depth_ > 0) {
    --skipped_depth_;
  } else {
    place_ = Place::tensor;
  }
  return true;
}

bool HeaderReader::parse_error(
    size_t,
    const std::string&,
    const Json::exception& error) {
  std::string what = error.what();
  const size_t prefix = what.find("] ");  // "[json.exception.parse_error.101] "
  what.erase(0, prefix == std::string::npos ? 0 : prefix + 2);
  for (char& c : what) {  // it repeats bytes that may be no UTF-8
    c = static_cast<unsigned char>(c) < 0x80 ? c : '?';
  }
  mistakes_.add(concat("its header is not valid JSON: ", quote(what)));
  return false;
}

}  // namespace peft::detail
