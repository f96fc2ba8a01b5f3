// SPDX-License-Identifier: Apache-2.0
#include "report.h"

#include <cstdio>
#include <string_view>

namespace finetune_text {
namespace {

constexpr std::string_view program =
    R"py(import peft, torch, transformers

class TextClassifier(torch.nn.Module):
    def __init__(self, model, labels):
        super().__init__()
        self.bert = transformers.AutoModel.from_pretrained(
            model, add_pooling_layer=False)
        self.classifier = torch.nn.Linear(self.bert.config.hidden_size, labels)

    def forward(self, input_ids, attention_mask, **_):
        hidden = self.bert(input_ids, attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1)
        return self.classifier((hidden * mask).sum(1) / mask.sum(1))

model = peft.PeftModel.from_pretrained(
    TextClassifier(r"@MODEL@", @LABELS@), r"@ADAPTER@").eval()
tokenizer = transformers.AutoTokenizer.from_pretrained(r"@MODEL@")
text = tokenizer("some text", truncation=True, max_length=64,
                 return_tensors="pt")
print(model(**text).argmax(1))
)py";

void replace(std::string& text, std::string_view what, const std::string& by) {
  for (auto at = text.find(what); at != std::string::npos;
       at = text.find(what, at + by.size())) {
    text.replace(at, what.size(), by);
  }
}

}  // namespace

std::string file_size_text(const std::filesystem::path& path) {
  const auto bytes = static_cast<double>(std::filesystem::file_size(path));
  const bool small = bytes < 1e6;
  char text[32];
  std::snprintf(
      text,
      sizeof text,
      small ? "%.1f kB" : "%.1f MB",
      bytes / (small ? 1e3 : 1e6));
  return text;
}

std::string python_snippet(
    const std::filesystem::path& model,
    const std::filesystem::path& adapter,
    std::int64_t labels) {
  std::string text(program);
  replace(text, "@MODEL@", model.string());
  replace(text, "@ADAPTER@", adapter.string());
  replace(text, "@LABELS@", std::to_string(labels));
  return text;
}

}  // namespace finetune_text
