// SPDX-License-Identifier: Apache-2.0
// Versions of PEFT in files: how they stand, and what is said by them.
#include "config/peft_version.h"

#include <gmock/gmock.h>

#include "peft/lora_config.h"
#include "support/check_config.h"
#include "support/collect_warnings.h"

namespace {

using peft::detail::compare_versions;
using peft_test::lora;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

TEST(PeftVersion, StandsByItsNumbers) {
  EXPECT_TRUE(compare_versions("0.9.0", "0.10.0") < 0);
  EXPECT_TRUE(compare_versions("0.19.1", "0.19.0") > 0);
  EXPECT_TRUE(compare_versions("0.19", "0.19.0") == 0);
  EXPECT_TRUE(compare_versions("1", "0.21.2") > 0);
  EXPECT_TRUE(compare_versions("0.19.1.dev0@4c5c7b1", "0.19.1") < 0);
  EXPECT_TRUE(compare_versions("0.19.1.dev0@UNKNOWN", "0.19.0") > 0);
  EXPECT_TRUE(compare_versions("0.20rc1", "0.20") < 0);
  EXPECT_TRUE(compare_versions("0.20+cu12", "0.20") == 0);
  EXPECT_TRUE(compare_versions("0.20.post1", "0.20") == 0);
  EXPECT_TRUE(compare_versions("", "0.1") < 0);
}

TEST(PeftVersion, ThatIsNoneHasNoPlace) {
  for (const char* text :
       {"main", ".", "v0.20", "99999999999999999999", "-1"}) {
    EXPECT_TRUE(
        compare_versions(text, "0.1") == std::partial_ordering::unordered)
        << text;
  }
}

std::string warning_of(const std::string& fields) {
  const peft_test::CollectWarnings warnings;
  lora(fields + R"(, "new": 1)");
  return warnings.all();
}

// "newer" is said of what is newer alone.
TEST(PeftVersion, SaysWhatIsKnownOfUnknownFields) {
  const std::string newer = warning_of(R"("peft_version": "0.99.0")");
  EXPECT_THAT(newer, AllOf(HasSubstr("'new'"), HasSubstr("PEFT 0.99.0 wrote")));
  EXPECT_THAT(newer, HasSubstr("newer than PEFT 0.21.2"));
  for (const char* version : {"0.5.0", "0.21.2", "0.21.2.dev0", "main"}) {
    const std::string text =
        warning_of(R"("peft_version": ")" + std::string(version) + "\"");
    EXPECT_THAT(text, AllOf(HasSubstr(version), HasSubstr("0.21.2")));
    EXPECT_THAT(text, Not(HasSubstr("newer")));
  }
  EXPECT_THAT(
      warning_of(R"("r": 2)"),
      AllOf(HasSubstr("does not say which PEFT"), Not(HasSubstr("newer"))));
}

TEST(PeftVersion, OfAFileThatSaysNoneIsToldFromToday) {
  EXPECT_EQ(lora("").peft_version, "");
  EXPECT_EQ(lora(R"("peft_version": null)").peft_version, "");
  EXPECT_EQ(lora(R"("peft_version": "0.5.0")").peft_version, "0.5.0");
  EXPECT_THAT(
      peft::to_json(lora("")), HasSubstr(R"("peft_version": "0.21.2")"));
}

}  // namespace
