// The programs inside vmm: `vmm img …`, `vmm io …`, or by the name that the program was started with (qemu-img, qemu-io).
#pragma once

#include <span>
#include <string_view>

namespace vmm::tools {

// One `static RegisteredTool registered{{.name = "io", …}};` a tool. run() gets the words after the tool's name; its answer is the exit
// status. Messages begin with program_name(), which is set to `program`.
struct Tool {
  std::string_view name;     // vmm NAME
  std::string_view program;  // argv[0] that means it too
  std::string_view doc;
  int (*run)(std::span<const char* const> words) = nullptr;
};
struct RegisteredTool {
  explicit RegisteredTool(Tool tool);
  Tool tool;
  const RegisteredTool* next;
};
// The tool that a command line means, and its words; null: the emulator.
const Tool* find_tool(std::span<const char* const> arguments, std::span<const char* const>& words);

}  // namespace vmm::tools
