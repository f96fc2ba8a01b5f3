// SPDX-License-Identifier: Apache-2.0
// Files and texts of adapter_config.json to configs.
#include <algorithm>
#include <system_error>

#include "base/atomic_file.h"
#include "base/mistakes.h"
#include "base/text.h"
#include "base/warning.h"
#include "config/config_table.h"
#include "config/field_reader.h"
#include "config/json_text.h"
#include "config/peft_version.h"
#include "peft/adapter_config.h"

namespace peft {
namespace {

using detail::concat;
using detail::Json;

constexpr const char* file_name = "adapter_config.json";

std::string peft_type_of(const Json& object, const std::string& origin) {
  const auto found = object.find("peft_type");
  if (found == object.end() || found->is_null()) {
    throw Error(
        ErrorKind::config,
        concat(
            origin,
            ": 'peft_type' is missing, the one field every adapter config "
            "must have; it is one of ",
            detail::list_peft_types()));
  }
  if (!found->is_string()) {
    throw Error(
        ErrorKind::config,
        concat(
            origin,
            ": peft_type: found ",
            detail::describe_json(*found),
            ", expected one of ",
            detail::list_peft_types()));
  }
  return found->get<std::string>();
}

// What can be said of a file with fields that this library does not know.
std::string origin_of_fields(const std::string& version) {
  const std::string& known = detail::known_peft_version();
  const std::string of_known =
      concat("PEFT ", known, ", whose fields this library knows");
  const auto order = detail::compare_versions(version, known);
  return version.empty() ? concat(
                               "the file does not say which PEFT wrote it, and "
                               "they are none of ",
                               of_known)
      : order > 0 ? concat(
                        "PEFT ",
                        version,
                        " wrote the file, which is newer "
                        "than ",
                        of_known)
                  : concat(
                        "the file is of PEFT ",
                        version,
                        ", and they are "
                        "none of ",
                        of_known);
}

// Keeps what no field of the config took, and says so once.
void keep_unknown_fields(
    const Json& object,
    detail::FieldReader& reader,
    const std::string& origin,
    AdapterConfig& config) {
  reader.ignore("peft_type");
  if (object.contains("runtime_config")) {
    reader.ignore("runtime_config");
    detail::warn(concat(
        origin, ": 'runtime_config' is ignored; it has no place in a file"));
  }
  reader.keep_unknown(config.unknown_fields);
  std::vector<std::string> names = reader.unknown();
  if (names.empty()) {
    return;
  }
  std::sort(names.begin(), names.end());
  detail::warn(concat(
      origin,
      ": unknown fields are kept but do nothing: ",
      detail::list_names(names, names.size()),
      "; ",
      origin_of_fields(config.peft_version)));
}

// " (its subfolders 'a' and 'b' hold adapters)": where PEFT puts adapters that
// are not called "default".
std::string subfolder_hint(const std::filesystem::path& directory) {
  std::error_code ignored;
  std::vector<std::string> names;
  for (std::filesystem::directory_iterator entry(directory, ignored), end;
       !ignored && entry != end;
       entry.increment(ignored)) {
    if (std::filesystem::exists(entry->path() / file_name, ignored)) {
      names.push_back(entry->path().filename().string());
    }
  }
  if (names.empty()) {
    return "; give the folder that holds it";
  }
  std::sort(names.begin(), names.end());
  return concat("; adapters are in its subfolders ", detail::list_names(names));
}

std::string missing_file_hint(const std::filesystem::path& directory) {
  std::error_code ignored;
  if (std::filesystem::is_directory(directory, ignored)) {
    return subfolder_hint(directory);
  }
  if (std::filesystem::exists(directory, ignored)) {
    return ", which is a file; give the folder that holds the adapter";
  }
  return ": there is no such folder";
}

}  // namespace

std::unique_ptr<AdapterConfig> parse_adapter_config(
    const std::string& json,
    const std::string& origin) {
  const Json object = detail::parse_json(json, origin, ErrorKind::file);
  if (!object.is_object()) {
    throw Error(
        ErrorKind::file,
        concat(
            origin,
            ": found ",
            detail::describe_json(object),
            ", expected a JSON object"));
  }
  auto config =
      detail::make_default_config(peft_type_of(object, origin), origin);
  detail::Mistakes mistakes(ErrorKind::config, origin);
  detail::FieldReader reader(object, mistakes);
  config->visit(reader);
  const auto version = object.find("peft_version");
  if (version == object.end() || version->is_null()) {
    config->peft_version = "";
  }
  if (mistakes.any()) {  // then bad values too; they alone wait for injection
    config->check(mistakes);
  }
  mistakes.raise_if_any();
  keep_unknown_fields(object, reader, origin, *config);
  return config;
}

std::unique_ptr<AdapterConfig> load_adapter_config(
    const std::filesystem::path& directory) {
  const auto path = directory / file_name;
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) {
    throw Error(
        ErrorKind::file,
        concat(
            "Can't find '",
            file_name,
            "' in '",
            directory.string(),
            "'",
            missing_file_hint(directory)));
  }
  return parse_adapter_config(detail::read_text_file(path), path.string());
}

}  // namespace peft
