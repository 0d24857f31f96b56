#include "src/tools/tool.h"

namespace vmm::tools {

namespace {
constinit const RegisteredTool* first_tool = nullptr;
}

RegisteredTool::RegisteredTool(Tool t) : tool(t), next(first_tool) { first_tool = this; }

const Tool* find_tool(std::span<const char* const> arguments, std::span<const char* const>& words) {
  if (arguments.empty()) return nullptr;
  const std::string_view path = arguments[0], program = path.substr(path.rfind('/') + 1);
  for (const auto* r = first_tool; r; r = r->next) {
    if (program.ends_with(r->tool.program)) return words = arguments.subspan(1), &r->tool;
    if (arguments.size() > 1 && r->tool.name == arguments[1]) return words = arguments.subspan(2), &r->tool;
  }
  return nullptr;
}

}  // namespace vmm::tools
