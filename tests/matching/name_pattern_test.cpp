// SPDX-License-Identifier: Apache-2.0
// Python's regexes on module paths. parity/matching_parity.py compares many
// more of them with Python's own re.
#include "matching/name_pattern.h"

#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>

#include "support/error_of.h"

namespace {

using peft::ErrorKind;
using peft::detail::NamePattern;
using peft::detail::pattern_key_matches;
using peft::detail::value_for_path;
using peft_test::error_of;
using testing::AllOf;
using testing::HasSubstr;
using testing::Optional;

bool whole(const std::string& regex, const std::string& text) {
  return NamePattern(regex).matches_whole(text);
}

TEST(NamePattern, MatchesTheWholeText) {
  EXPECT_TRUE(whole("q", "q"));
  EXPECT_FALSE(whole("q", "a.q"));
  EXPECT_FALSE(whole("q", "qq"));
  EXPECT_TRUE(whole("q|qq", "qq"));  // backtracks to what reaches the end
  EXPECT_TRUE(whole(R"(.*\.(q|v)_proj)", "model.layers.0.attn.q_proj"));
  EXPECT_TRUE(whole("", ""));
}

TEST(NamePattern, MatchesFromTheStart) {
  const NamePattern pattern(R"(.*?\.(?P<idx>\d+)\.)");
  EXPECT_THAT(pattern.match_prefix("a.1.b.2.c"), Optional<std::string>("a.1."));
  EXPECT_THAT(pattern.match_prefix("a.1.b", "idx"), Optional<std::string>("1"));
  EXPECT_EQ(pattern.match_prefix("a.b"), std::nullopt);
  EXPECT_EQ(pattern.match_prefix("a.1.b", "other"), std::nullopt);
}

TEST(NamePattern, LeavesOutGroupsThatTookNoPart) {
  const NamePattern pattern("a|(?P<x>b)");
  EXPECT_EQ(pattern.match_prefix("a", "x"), std::nullopt);
  EXPECT_THAT(pattern.match_prefix("b", "x"), Optional<std::string>("b"));
}

TEST(NamePattern, SpeaksPython) {
  EXPECT_TRUE(whole(R"(q\Z)", "q"));
  EXPECT_EQ(NamePattern(R"(q\Z)").match_prefix("q\n"), std::nullopt);
  EXPECT_TRUE(whole("a{,2}", "aa"));
  EXPECT_TRUE(whole("a{,2}", ""));
  EXPECT_FALSE(whole("a{,2}", "aaa"));
  EXPECT_TRUE(whole("a{,}b", "aaaab"));
  EXPECT_TRUE(whole("a{q}", "a{q}"));
  EXPECT_TRUE(whole("a{ 1}", "a{ 1}"));
  EXPECT_TRUE(whole("(?P<n>.)(?P=n)", "aa"));
  EXPECT_TRUE(whole(R"(\u00e9\U0001F600)", "é😀"));
  EXPECT_TRUE(whole("[[:d]", ":"));  // no POSIX class
  EXPECT_TRUE(whole("[]{,3}]", "{"));
  EXPECT_TRUE(whole("(?#[comment)a{,1}", "a"));
}

TEST(NamePattern, KnowsUnicode) {
  EXPECT_TRUE(whole(R"(\w+)", "größe"));
  EXPECT_TRUE(whole(".", "é"));
  EXPECT_TRUE(whole("(?i)É", "é"));
}

TEST(NamePattern, SurvivesBytesThatAreNoText) {
  EXPECT_FALSE(whole("a.", "a\xff"));
  EXPECT_TRUE(whole("a", "a"));
  error_of(ErrorKind::config, [] { NamePattern("\xff"); });
}

TEST(NamePattern, SaysWhereARegexIsWrong) {
  EXPECT_THAT(
      error_of(ErrorKind::config, [] { NamePattern("x{,3}(q"); }),
      AllOf(
          HasSubstr("'x{,3}(q'"),
          HasSubstr("parenthes"),
          HasSubstr("at position 7")));
  EXPECT_THAT(
      error_of(ErrorKind::config, [] { NamePattern("a{,2}b)c"); }),
      HasSubstr("at position 6"));
  error_of(ErrorKind::config, [] { NamePattern("q\\"); });
}

TEST(NamePattern, GivesUpOnPatternsThatTakeForever) {
  const NamePattern pattern("(a+)+");
  const std::string text = std::string(60, 'a') + '!';
  EXPECT_THAT(
      error_of(ErrorKind::config, [&] { pattern.matches_whole(text); }),
      AllOf(HasSubstr("'(a+)+'"), HasSubstr("too expensive")));
  EXPECT_TRUE(pattern.matches_whole("aa"));
}

TEST(NamePattern, MayBeSharedByThreads) {
  const NamePattern pattern(R"(layers\.(\d+)\.(q|v))");
  std::vector<std::thread> threads;
  std::vector<int> matches(4, 0);
  for (std::size_t t = 0; t < matches.size(); ++t) {
    threads.emplace_back([&pattern, &matches, t] {
      for (int i = 0; i < 2000; ++i) {
        const auto path = "layers." + std::to_string(i) + (i % 2 ? ".q" : ".k");
        matches[t] += pattern.matches_whole(path) ? 1 : 0;
        matches[t] += pattern_key_matches("[q]", path) ? 1 : 0;
      }
    });
  }
  for (auto& thread : threads) {
    thread.join();
  }
  EXPECT_THAT(matches, testing::Each(2000));
}

TEST(PatternKey, MatchesAtADot) {
  EXPECT_TRUE(pattern_key_matches("q", "q"));
  EXPECT_TRUE(pattern_key_matches("q", "layers.0.q"));
  EXPECT_FALSE(pattern_key_matches("q", "my_q"));
  EXPECT_FALSE(pattern_key_matches("q", "q.a"));
  EXPECT_TRUE(pattern_key_matches("0.q", "layers.0.q"));
  EXPECT_FALSE(pattern_key_matches("layers.0.q", "0.q"));
  EXPECT_TRUE(pattern_key_matches("a.q", "axq"));  // a dot is any character
  EXPECT_FALSE(pattern_key_matches("", "q"));
}

TEST(PatternKey, IsARegex) {
  EXPECT_TRUE(pattern_key_matches("^q", "q"));
  EXPECT_FALSE(pattern_key_matches("^q", "a.q"));
  EXPECT_TRUE(pattern_key_matches("q|v", "a.v"));
  EXPECT_TRUE(pattern_key_matches(R"(layers\.\d+\.q)", "m.layers.12.q"));
  EXPECT_TRUE(pattern_key_matches("größe", "a.größe"));
  EXPECT_THAT(
      error_of(ErrorKind::config, [] { pattern_key_matches("q(", "q"); }),
      HasSubstr("'q('"));
}

TEST(PatternKey, OfTheFirstThatMatchesGivesTheValue) {
  const peft::Patterns<std::int64_t> ranks = {{"q", 3}, {"0.q", 4}, {"v", 5}};
  EXPECT_EQ(value_for_path(ranks, "layers.0.q"), 3);
  EXPECT_EQ(value_for_path(ranks, "layers.0.v"), 5);
  EXPECT_EQ(value_for_path(ranks, "layers.0.k"), std::nullopt);
}

TEST(PatternKey, WorksForMoreKeysThanAreRemembered) {
  for (int i = 0; i < 1500; ++i) {
    const std::string key = "[q]" + std::to_string(i);
    EXPECT_TRUE(pattern_key_matches(key, "a.q" + std::to_string(i)));
  }
}

}  // namespace
