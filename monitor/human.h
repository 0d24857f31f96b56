// Lines of the human monitor: finding the command, its arguments by pattern, its text.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "src/control/command.h"

namespace vmm::monitor {

// Words; quotes ("…" with \-escapes) keep blanks together.
Result<std::vector<std::string>> split_words(std::string_view line);
// The arguments object for a command's pattern ("filename:s,force:-f,size:l?").
Result<Value> human_arguments(control::Context& context, std::string_view pattern, std::span<const std::string> words,
                              std::string_view rest_of_line);
// Words that may stand at the end of `text`.
std::vector<std::string> complete_human(std::string_view text);

// Numbers, + - * / % & | ^ ~ ( ), character constants and $registers of the context's CPU.
Result<u64> evaluate(control::Context& context, std::string_view expression);

}  // namespace vmm::monitor
