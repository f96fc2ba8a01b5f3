// SPDX-License-Identifier: Apache-2.0
// The demo's tokenizer on a vocabulary small enough to check by eye; that it
// equals Hugging Face's on real text is tests/parity/word_piece_parity.py.
#include "word_piece.h"

#include <fstream>
#include <stdexcept>

#include <gtest/gtest.h>

#include "unicode.h"

namespace {

using finetune_text::WordPiece;

class WordPieceTest : public testing::Test {
 protected:
  // A file for each test, for they may run at the same time.
  WordPieceTest()
      : path_(
            testing::TempDir() + "word_piece_" +
            testing::UnitTest::GetInstance()->current_test_info()->name()) {
    std::ofstream(path_, std::ios::binary)
        << "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nhello\nun\n##aff\n##able\n"
           "cafe\n!\n中\na\n##a\n";
  }

  // The tokens of `text`, [CLS] and [SEP] left off.
  std::string tokens(const std::string& text, std::size_t max_length = 512) {
    const WordPiece tokenizer(path_);
    const auto ids = tokenizer.encode(text, max_length);
    EXPECT_EQ(tokenizer.token(ids.front()), "[CLS]");
    EXPECT_EQ(tokenizer.token(ids.back()), "[SEP]");
    std::string line;
    for (std::size_t i = 1; i + 1 < ids.size(); ++i) {
      line += (i > 1 ? " " : "") + tokenizer.token(ids[i]);
    }
    return line;
  }

  std::string path_;
};

TEST_F(WordPieceTest, TakesTheLongestPieces) {
  EXPECT_EQ(tokens("unaffable"), "un ##aff ##able");
  EXPECT_EQ(tokens("unaffablex"), "[UNK]");
  EXPECT_EQ(tokens("hello unaff"), "hello un ##aff");
}

TEST_F(WordPieceTest, DropsCaseAccentsAndControlCharacters) {
  EXPECT_EQ(tokens("HeLLo CAFÉ"), "hello cafe");
  EXPECT_EQ(tokens("cafe\u0301"), "cafe");
  EXPECT_EQ(tokens("hel\u200Blo\x7F"), "hello");
  EXPECT_EQ(tokens(std::string("hel\0lo", 6)), "hello");
}

TEST_F(WordPieceTest, SplitsSpacesPunctuationAndIdeographs) {
  EXPECT_EQ(tokens("hello!!hello\u3000hello\n"), "hello ! ! hello hello");
  EXPECT_EQ(tokens("hello中hello"), "hello 中 hello");
  EXPECT_EQ(tokens(""), "");
  EXPECT_EQ(tokens(" \t\r\n"), "");
}

TEST_F(WordPieceTest, KeepsSpecialTokensInTheText) {
  EXPECT_EQ(
      tokens("hello[MASK]hello [[SEP]"), "hello [MASK] hello [UNK] [SEP]");
  EXPECT_EQ(tokens("[mask]"), "[UNK] [UNK] [UNK]");
}

TEST_F(WordPieceTest, CutsToTheLengthAskedFor) {
  EXPECT_EQ(tokens("unaffable hello", 5), "un ##aff ##able");
  EXPECT_EQ(tokens("unaffable hello", 4), "un ##aff");
  EXPECT_EQ(tokens("hello", 2), "");
  EXPECT_THROW(tokens("hello", 1), std::invalid_argument);
}

TEST_F(WordPieceTest, GivesUpOnWordsOfMoreThanAHundredLetters) {
  EXPECT_EQ(tokens(std::string(101, 'a')), "[UNK]");
  EXPECT_NE(tokens(std::string(100, 'a')), "[UNK]");
}

TEST_F(WordPieceTest, NamesAVocabularyThatCannotBeUsed) {
  EXPECT_THROW(WordPiece("/nowhere/vocab.txt"), std::runtime_error);
  std::ofstream(path_) << "hello\n[UNK]\n";
  try {
    const WordPiece tokenizer(path_);
    FAIL() << "no error";
  } catch (const std::runtime_error& error) {
    const std::string what = error.what();
    EXPECT_NE(what.find(path_), std::string::npos) << what;
    EXPECT_NE(what.find("[PAD]"), std::string::npos) << what;
  }
}

TEST(Unicode, DecodesWhatItEncodes) {
  const std::u32string text = U"a\u00e9\u4e2d\U0001F600";
  EXPECT_EQ(finetune_text::encode_utf8(text), "a\u00e9\u4e2d\U0001F600");
  EXPECT_EQ(finetune_text::decode_utf8("a\u00e9\u4e2d\U0001F600"), text);
}

TEST(Unicode, ReadsBrokenBytesAsReplacementCharacters) {
  const auto decode = finetune_text::decode_utf8;
  EXPECT_EQ(
      decode("a\xFF"
             "b"),
      U"a\uFFFD"
      U"b");
  EXPECT_EQ(decode("\xC0\x80"), U"\uFFFD\uFFFD");            // overlong zero
  EXPECT_EQ(decode("\xED\xA0\x80"), U"\uFFFD\uFFFD\uFFFD");  // a surrogate
  EXPECT_EQ(decode("\xE4\xB8"), U"\uFFFD\uFFFD");            // cut short
}

}  // namespace
