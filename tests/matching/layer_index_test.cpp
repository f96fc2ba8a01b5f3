// SPDX-License-Identifier: Apache-2.0
// Which number of a path is its layer.
#include "matching/layer_index.h"

#include <string>

#include <gmock/gmock.h>

#include "support/error_of.h"

namespace {

using peft::detail::LayerFilter;
using testing::Eq;
using testing::Optional;

std::optional<std::int64_t> index_of(
    const std::string& path,
    const std::vector<std::string>& patterns = {}) {
  return LayerFilter({0}, patterns).index_of(path);
}

TEST(LayerIndex, IsTheFirstNumberBelowAContainer) {
  EXPECT_THAT(index_of("model.layers.3.q"), Optional(3));
  EXPECT_THAT(index_of("model.layers.3.experts.5.q"), Optional(3));
  EXPECT_THAT(index_of("model.layers.007.q"), Optional(7));
  EXPECT_THAT(index_of("model.layers.q"), Eq(std::nullopt));
  EXPECT_THAT(index_of("model.layers.3"), Eq(std::nullopt));
  EXPECT_THAT(index_of("model.layers.3a.q"), Eq(std::nullopt));
  EXPECT_THAT(index_of("model.layers.-3.q"), Eq(std::nullopt));
  EXPECT_THAT(
      index_of("model.layers.99999999999999999999.q"), Eq(std::nullopt));
  EXPECT_THAT(index_of(""), Eq(std::nullopt));
}

TEST(LayerIndex, MayBelongToAContainerAtTheRoot) {
  EXPECT_THAT(index_of("layers.3.q"), Optional(3));
  EXPECT_THAT(index_of("3.q"), Eq(std::nullopt));
  EXPECT_THAT(index_of("layers.3"), Eq(std::nullopt));
}

TEST(LayerIndex, OfAnInnerContainerWinsAsInPeft) {
  const LayerFilter filter({0}, {});
  EXPECT_THAT(filter.index_of("layers.1.experts.0.q"), Optional(0));
  EXPECT_THAT(filter.overlooked_index("layers.1.experts.0.q"), Optional(1));
  EXPECT_EQ(filter.overlooked_index("layers.1.q"), std::nullopt);
  EXPECT_EQ(filter.overlooked_index("layers.1.experts.1.q"), std::nullopt);
  EXPECT_EQ(filter.overlooked_index("m.layers.1.experts.0.q"), std::nullopt);
}

TEST(LayerIndex, FollowsThePattern) {
  EXPECT_THAT(index_of("layers.1.experts.0.q", {"layers"}), Optional(1));
  EXPECT_THAT(index_of("layers.1.experts.0.q", {"experts"}), Optional(0));
  EXPECT_THAT(index_of("my_layers.1.q", {"layers"}), Eq(std::nullopt));
  EXPECT_THAT(index_of("m.h.2.blocks.4.q", {"x", "blocks", "h"}), Optional(4));
  EXPECT_THAT(index_of("m.block_7.3.q", {R"(block_\d)"}), Optional(3));
  // As Python reads it: "h", or "layers" with a number after it.
  EXPECT_THAT(index_of("h.3.q", {"h|layers"}), Eq(std::nullopt));
}

TEST(LayerIndex, IsOffWithoutIndexes) {
  EXPECT_FALSE(LayerFilter({}, {"layers"}).is_on());
  const LayerFilter filter({2, 4}, {});
  EXPECT_TRUE(filter.is_on());
  EXPECT_TRUE(filter.takes(4));
  EXPECT_FALSE(filter.takes(3));
}

TEST(LayerIndex, RefusesPatternsThatAreNone) {
  EXPECT_THAT(
      peft_test::error_of(
          peft::ErrorKind::config, [] { LayerFilter({1}, {"h("}); }),
      testing::HasSubstr("h("));
}

}  // namespace
