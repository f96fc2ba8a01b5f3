// SPDX-License-Identifier: Apache-2.0
// adapter_model.bin: what hostile and broken files of torch.save come to. Files
// of live Python are read in parity/pickles_parity.py.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "files/torch_file.h"
#include "support/error_of.h"
#include "support/pickle_bytes.h"
#include "support/temp_folder.h"

namespace peft_test {
namespace {

using peft::ErrorKind;
using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;

class TorchFile : public testing::Test {
 protected:
  peft::StateDict load() const { return peft::detail::load_torch_file(path_); }

  std::string error(ErrorKind kind = ErrorKind::file) const {
    const std::string text = error_of(kind, [&] { load(); });
    EXPECT_THAT(text, StartsWith("cannot read '" + path_.string() + "': "));
    return text;
  }

  // The error of a dict of this tensor, with six floats in record 0.
  std::string error(const pickle::Tensor& tensor) const {
    write(pickle::dict({{"w", tensor.bytes()}}));
    return error();
  }

  void write(const std::string& pickle) const {
    write_torch_file(path_, pickle, {{"0", floats({1, 2, 3, 4, 5, 6})}});
  }

  static std::string floats(const std::vector<float>& values) {
    return {
        reinterpret_cast<const char*>(values.data()),
        values.size() * sizeof(float)};
  }

  TempFolder folder_;
  std::filesystem::path path_ = folder_ / "adapter_model.bin";
};

TEST_F(TorchFile, ReadsTensorsAndTheirViews) {
  write(pickle::dict(
      {{"a", pickle::Tensor().bytes()},
       {"b", pickle::Tensor{.sizes = {3, 2}, .strides = {1, 3}}.bytes()},
       {"c", pickle::Tensor{.offset = 4, .sizes = {}, .strides = {}}.bytes()},
       {"d", pickle::Tensor{.sizes = {0, 7}, .strides = {7, 1}}.bytes()}}));
  const auto tensors = load();
  EXPECT_TRUE(torch::equal(
      tensors["a"], torch::tensor({{1.f, 2.f, 3.f}, {4.f, 5.f, 6.f}})));
  EXPECT_TRUE(torch::equal(tensors["b"], tensors["a"].t()));
  EXPECT_EQ(tensors["c"].item<float>(), 5);
  EXPECT_EQ(tensors["d"].sizes(), (std::vector<std::int64_t>{0, 7}));
  EXPECT_TRUE(tensors["a"].is_alias_of(tensors["b"]));
}

TEST_F(TorchFile, RefusesTensorsOutsideTheirStorage) {
  constexpr std::int64_t huge = std::int64_t{1} << 62;
  const std::vector<pickle::Tensor> outside = {
      {.offset = 1},
      {.offset = -1},
      {.offset = huge},
      {.sizes = {2, 4}},
      {.strides = {4, 1}},
      {.sizes = {-2, 3}},
      {.strides = {-3, 1}},
      {.sizes = {huge, huge}, .strides = {huge, 1}},
      {.sizes = {huge, 0}, .strides = {huge, huge}},
      {.sizes = {1000, 1000}, .strides = {0, 0}},
      {.sizes = {2}},
  };
  for (const auto& tensor : outside) {
    EXPECT_THAT(error(tensor), HasSubstr("tensor 'w': it"));
  }
}

TEST_F(TorchFile, RefusesStoragesOfAnotherSizeThanTheirRecords) {
  for (const std::int64_t length :
       {std::int64_t{7},
        std::int64_t{0},
        std::int64_t{-6},
        std::int64_t{1} << 62}) {
    EXPECT_THAT(
        error({.length = length}),
        AllOf(
            HasSubstr(std::to_string(length)),
            HasSubstr("record 'data/0' holds 24 bytes")));
  }
  EXPECT_THAT(error({.storage = "DoubleStorage"}), HasSubstr("24 bytes"));
  EXPECT_THAT(error({.record = "1"}), HasSubstr("'data/1' is missing"));
  EXPECT_THAT(error({.record = "../data.pkl"}), HasSubstr("is missing"));
  EXPECT_THAT(error({.storage = "QInt8Storage"}), HasSubstr("QInt8Storage"));
}

TEST_F(TorchFile, NamesEachTensorThatIsWrong) {
  write(pickle::dict(
      {{"first", pickle::Tensor{.offset = 1}.bytes()},
       {"second", pickle::Tensor{.length = 5}.bytes()}}));
  EXPECT_THAT(error(), AllOf(HasSubstr("'first'"), HasSubstr("'second'")));
}

TEST_F(TorchFile, RunsNothingAndNamesWhatItWouldHaveRun) {
  const std::string call = pickle::global("os", "system") +
      pickle::tuple({pickle::text("touch x")}) + "R";
  write(pickle::dict({{"w", call}}));
  EXPECT_THAT(error(), AllOf(HasSubstr("'os.system'"), HasSubstr("beware")));
  // By protocol 4's names.
  write(
      "\x80\x04" + pickle::text("builtins") + pickle::text("eval") + "\x93" +
      pickle::tuple({pickle::text("1")}) + "R.");
  EXPECT_THAT(error(), HasSubstr("'builtins.eval'"));
  for (const char* name :
       {"_rebuild_sparse_tensor", "_rebuild_qtensor", "_load_global"}) {
    write(pickle::dict({{"w", pickle::global("torch._utils", name)}}));
    EXPECT_THAT(error(), HasSubstr(name));
  }
  write(pickle::dict({{"w", pickle::global("torch", "load")}}));
  EXPECT_THAT(error(), HasSubstr("'torch.load'"));
}

TEST_F(TorchFile, RefusesKnownNamesCalledWithOtherThings) {
  const std::string rebuild =
      pickle::global("torch._utils", "_rebuild_tensor_v2");
  const std::string parameter =
      pickle::global("torch._utils", "_rebuild_parameter");
  for (const std::string& call :
       {rebuild + ")R",
        rebuild + pickle::integers({1, 2, 3, 4, 5, 6}) + "R",
        rebuild + "NR",
        parameter + ")R",
        parameter + pickle::integers({1}) + "R",
        pickle::ordered_dict + ")R",
        pickle::global("torch", "FloatStorage") + ")R",
        pickle::tuple({pickle::text("storage")}) + "Q",
        pickle::text("0") + "Q"}) {
    write(pickle::dict({{"w", call}}));
    EXPECT_THAT(error(), HasSubstr("its pickle"));
  }
}

TEST_F(TorchFile, WantsADictOfTensors) {
  for (const std::string& value :
       {pickle::integer(1),
        pickle::text("x"),
        pickle::ordered_dict,
        std::string("N"),
        std::string("]"),
        std::string("(t")}) {
    write(pickle::dict({{"w", value}}));
    EXPECT_THAT(error(), HasSubstr("'w' is "));
    write("\x80\x02" + value + ".");
    if (value != pickle::ordered_dict) {
      EXPECT_THAT(error(), HasSubstr("not a dict of tensors"));
    }
  }
  write("\x80\x02}" + pickle::integer(1) + pickle::Tensor().bytes() + "s.");
  EXPECT_THAT(error(), HasSubstr("a key of its dict is a number"));
  const std::string w = pickle::text("w") + pickle::Tensor().bytes();
  write("\x80\x02}(" + w + w + "u.");
  EXPECT_THAT(error(), HasSubstr("'w' is in its dict twice"));
}

TEST_F(TorchFile, SurvivesCirclesAndBrokenPickles) {
  // A dict that holds itself, a list of itself.
  write("\x80\x02}q\x01" + pickle::text("w") + "h\x01s.");
  EXPECT_THAT(error(), HasSubstr("'w' is a dict"));
  write(
      "\x80\x02]q\x01h\x01"
      "a.");
  EXPECT_THAT(error(), HasSubstr("not a dict"));
  const std::string good = pickle::dict({{"w", pickle::Tensor().bytes()}});
  for (std::size_t size = 0; size < good.size(); ++size) {
    write(good.substr(0, size));
    error();
  }
  for (const std::string& broken :
       {std::string("."),
        std::string("\x80\x02"
                    "t."),
        std::string("\x80\x02(}s."),
        std::string("\x80\x02h\x01."),
        std::string("\x80\x02}}."),
        std::string("\x80\x02"
                    "u."),
        std::string("\x80\x02R."),
        std::string("\x80\x02Q."),
        std::string("\x80\x02"
                    "b."),
        std::string("\x80\x02q\x01."),
        std::string("\x80\x02X\xff\xff\xff\xff."),
        std::string("\x80\x02\x8a\xff."),
        std::string("\x80\x01."),
        std::string("\x80\x02"
                    "0."),
        std::string(1000, '(')}) {
    write(broken);
    error();
  }
}

TEST_F(TorchFile, AnyByteMayBeWrong) {
  const std::string good = pickle::dict(
      {{"a", pickle::Tensor().bytes()},
       {"b",
        pickle::Tensor{.offset = 3, .sizes = {3}, .strides = {1}}.bytes()}});
  for (std::size_t i = 0; i < good.size(); ++i) {
    for (const char other : {'\0', '\x7f', '\xff', '(', 'R', 'h'}) {
      std::string bad = good;
      bad[i] = other;
      write(bad);
      try {
        for (const auto& item : load()) {
          item.value().sum();  // touches all that it claims to have
        }
      } catch (const peft::Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::file);
      }
    }
  }
}

TEST_F(TorchFile, RefusesWhatIsNoFileOfTorchSave) {
  write_bytes(path_, "");
  EXPECT_THAT(error(), HasSubstr("not a file of torch.save"));
  write_bytes(path_, std::string("PK\x03\x04") + std::string(300, 'x'));
  EXPECT_THAT(error(), HasSubstr("torch.save"));
  write(pickle::dict({{"w", pickle::Tensor().bytes()}}));
  const std::string whole = read_bytes(path_);
  for (std::size_t size = 0; size < whole.size(); size += 61) {
    write_bytes(path_, whole.substr(0, size));
    error();
  }
  std::filesystem::remove(path_);
  EXPECT_THAT(error(), HasSubstr("check the path"));
}

TEST_F(TorchFile, SaysWhatToDoWithTheFormatBeforeTorch16) {
  write_bytes(
      path_,
      "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9"
      "\x03.");
  EXPECT_THAT(
      error(ErrorKind::unsupported),
      AllOf(HasSubstr("torch before 1.6"), HasSubstr("save it again")));
}

}  // namespace
}  // namespace peft_test
